// What the server is doing, for those who watch it.
#include "requests.h"
#include "service.h"

Response endpoints::health(Service& service, Exchange&) {
  return json_response({{"status", "ok"},
                        {"live", true},  // these two are fields of the Open Inference Protocol
                        {"ready", true},
                        {"model", service.options.name},
                        {"waiting", service.batcher.load().waiting},
                        {"level", service.level()}});
}

Response endpoints::metrics(Service& service, Exchange&) {
  return text_response(service.metrics.text(service.options.name, service.batcher.load(), service.unturned),
                       kPrometheus);
}
