#include "sdk/shared_sessions.h"

#include <map>
#include <mutex>

namespace vmoe::sdk {

namespace {

struct Slot {
  std::mutex turn;  // held during a load
  std::weak_ptr<Session> session;
};

// Never destroyed: an engine may be freed by a static object of the caller.
std::mutex& table_mutex() {
  static auto& mutex = *new std::mutex;
  return mutex;
}

std::map<std::string, std::shared_ptr<Slot>>& table() {
  static auto& slots = *new std::map<std::string, std::shared_ptr<Slot>>;
  return slots;
}

std::shared_ptr<Slot> slot_of(const std::string& key) {
  const std::lock_guard lock(table_mutex());
  for (auto entry = table().begin(); entry != table().end();) {
    const bool unused = entry->second.use_count() == 1 && entry->second->session.expired();
    entry = unused ? table().erase(entry) : std::next(entry);
  }
  auto& slot = table()[key];
  if (slot == nullptr) slot = std::make_shared<Slot>();
  return slot;
}

}  // namespace

std::shared_ptr<Session> find_or_load_session(const std::string& key,
                                              const std::function<std::shared_ptr<Session>()>& load) {
  const auto slot = slot_of(key);
  const std::lock_guard turn(slot->turn);
  auto session = slot->session.lock();
  if (session == nullptr) slot->session = session = load();
  return session;
}

}  // namespace vmoe::sdk
