#include "sdk/shared_sessions.h"

#include <map>
#include <mutex>

namespace vmoe::sdk {

namespace {

// A place for a session that several engines can share. The place exists while a thread loads the session or an engine
// uses it.
struct Slot {
  std::mutex turn;  // locked during the load
  std::shared_ptr<Session> session;
};

std::shared_ptr<Slot> slot_of(const std::string& key) {
  // Never destroyed, because a static object of the program may free an engine at exit.
  static auto& mutex = *new std::mutex;
  static auto& slots = *new std::map<std::string, std::weak_ptr<Slot>>;
  const std::lock_guard lock(mutex);
  for (auto entry = slots.begin(); entry != slots.end();) {
    entry = entry->second.expired() ? slots.erase(entry) : std::next(entry);
  }
  auto slot = slots[key].lock();
  if (slot == nullptr) slots[key] = slot = std::make_shared<Slot>();
  return slot;
}

}  // namespace

std::shared_ptr<Session> find_or_load_session(const std::string& key,
                                              const std::function<std::shared_ptr<Session>()>& load) {
  const auto slot = slot_of(key);
  const std::lock_guard turn(slot->turn);
  if (slot->session == nullptr) slot->session = load();
  return {slot, slot->session.get()};
}

}  // namespace vmoe::sdk
