// The C API of elastic.h.
#include <cmath>
#include <utility>

#include "sdk/c_status.h"
#include "sdk/elastic.h"
#include "sdk/generated/bundle_rules.h"
#include "vmoe/elastic.h"

using namespace vmoe::sdk;  // all but the C API's own names

struct vmoe_elastic {
  Elastic elastic;
};

extern "C" {

vmoe_status* vmoe_elastic_create(const vmoe_elastic_options* options, const vmoe_elastic_level* levels,
                                 size_t num_levels, vmoe_elastic** elastic) {
  return guarded([&] {
    check_pointer(elastic, "elastic");
    *elastic = nullptr;
    check_pointer(options, "options");
    check_pointer(levels, "levels");
    const vmoe_elastic_options known = read_struct(options, "options");
    if (!std::isfinite(known.time)) fail(VMOE_ARGUMENT_ERROR, "options: time is no finite number");
    if (num_levels < 1 || num_levels > kMostLevels) {
      fail(VMOE_ARGUMENT_ERROR, "there must be 1 to ", kMostLevels, " levels, not ", num_levels);
    }
    ElasticPlan plan;
    for (size_t i = 0; i < num_levels; ++i) plan.levels.push_back({levels[i].fixed, levels[i].each});
    plan.target = known.target;
    plan.most_images = known.most_images;
    plan.multiple = known.multiple;
    *elastic = new vmoe_elastic{Elastic(std::move(plan), known.time)};
  });
}

void vmoe_elastic_free(vmoe_elastic* elastic) { delete elastic; }

vmoe_status* vmoe_elastic_decide(vmoe_elastic* elastic, const vmoe_elastic_seen* seen,
                                 vmoe_elastic_decision* decision) {
  return guarded([&] {
    check_pointer(elastic, "elastic");
    check_pointer(seen, "seen");
    check_pointer(decision, "decision");
    const vmoe_elastic_seen known = read_struct(seen, "seen");
    if (!std::isfinite(known.time) || !(known.oldest >= 0) || known.waiting < 0 || known.arrived < 0) {
      fail(VMOE_ARGUMENT_ERROR, "seen: waiting, oldest and arrived must be 0 or more, and time a finite number");
    }
    elastic->elastic.decide({known.time, known.waiting, known.oldest, known.arrived});
    const size_t level = elastic->elastic.level();
    vmoe_elastic_decision c = VMOE_ELASTIC_DECISION_INIT;
    c.level = static_cast<int64_t>(level);
    c.images = elastic->elastic.images_per_call(level);
    c.load = elastic->elastic.load(level);
    write_struct(decision, c, "decision");
  });
}

vmoe_status* vmoe_elastic_served(vmoe_elastic* elastic, int64_t level, int64_t images, double seconds) {
  return guarded([&] {
    check_pointer(elastic, "elastic");
    const size_t index = check_index(level, elastic->elastic.num_levels(), "level");
    if (images < 1) fail(VMOE_ARGUMENT_ERROR, "images must be 1 or more, not ", images);
    elastic->elastic.served(index, images, seconds);
  });
}

}  // extern "C"
