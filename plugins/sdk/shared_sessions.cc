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
  auto slot = slot_of(key);
  std::shared_ptr<Session> session;
  {
    const std::lock_guard turn(slot->turn);
    session = slot->session.lock();
    if (session == nullptr) slot->session = session = load();
  }
  // Given back under the lock: `slot_of` reads the session of a slot that nobody holds without its turn.
  const std::lock_guard lock(table_mutex());
  slot.reset();
  return session;
}

}  // namespace vmoe::sdk
