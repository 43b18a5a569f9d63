#include "coordinator/membership/membership.h"

#include <algorithm>

namespace octavo {

std::string_view NameOf(WorkerState state) {
  switch (state) {
    case WorkerState::kReady:
      return "ready";
    case WorkerState::kLost:
      return "lost";
    case WorkerState::kQuarantined:
      return "quarantined";
  }
  return "";
}

uint64_t Membership::Join(const v1::Hello& hello, Nanos now) {
  Member& member = members_[hello.worker_id()];
  if (member.state == WorkerState::kQuarantined) return 0;
  sessions_.erase(member.session);
  member.hello = hello;
  member.state = WorkerState::kReady;
  member.session = ++last_session_;
  member.last_beat = now;
  sessions_[member.session] = hello.worker_id();
  return member.session;
}

bool Membership::Beat(uint64_t session, Nanos arrived, uint64_t rss_peak_bytes) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return false;
  Member& member = members_[found->second];
  member.last_beat = std::max(member.last_beat, arrived);
  member.rss_peak_bytes = std::max(member.rss_peak_bytes, rss_peak_bytes);
  return true;
}

std::string Membership::Leave(uint64_t session) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return "";
  const std::string id = found->second;
  MarkLost(members_[id]);
  return id;
}

std::vector<std::string> Membership::Expire(Nanos now) {
  const Nanos unseen = now - last_look_.value_or(now) - lease_ / 3;
  last_look_ = now;
  std::vector<std::string> lost;
  for (auto& [id, member] : members_) {
    if (unseen > Nanos::zero()) member.last_beat = std::min(now, member.last_beat + unseen);
    if (member.state != WorkerState::kReady || now - member.last_beat <= lease_) continue;
    lost.push_back(id);
  }
  for (const std::string& id : lost) MarkLost(members_[id]);
  return lost;
}

void Membership::Quarantine(const std::string& worker_id, const std::string& why) {
  const auto found = members_.find(worker_id);
  if (found == members_.end()) return;
  sessions_.erase(found->second.session);
  found->second.state = WorkerState::kQuarantined;
  found->second.quarantine_why = why;
}

void Membership::SetDraining(const std::string& worker_id, bool draining) {
  if (draining) {
    draining_.insert(worker_id);
  } else {
    draining_.erase(worker_id);
  }
}

void Membership::MarkLost(Member& member) {
  sessions_.erase(member.session);
  member.state = WorkerState::kLost;
  std::vector<std::pair<uint64_t, std::string>> lost;  // by session: oldest first
  for (const auto& [id, other] : members_) {
    if (other.state == WorkerState::kLost) lost.emplace_back(other.session, id);
  }
  if (lost.size() <= kLostMax) return;
  const std::string forgotten = std::min_element(lost.begin(), lost.end())->second;
  members_.erase(forgotten);
  draining_.erase(forgotten);
}

const Membership::Member* Membership::Find(const std::string& worker_id) const {
  const auto found = members_.find(worker_id);
  return found == members_.end() ? nullptr : &found->second;
}

const Membership::Member* Membership::OfSession(uint64_t session) const {
  const auto found = sessions_.find(session);
  return found == sessions_.end() ? nullptr : Find(found->second);
}

std::vector<std::string> Membership::Ready() const {
  std::vector<std::string> ids;
  for (const auto& [id, member] : members_) {
    if (member.state == WorkerState::kReady) ids.push_back(id);
  }
  return ids;
}

}  // namespace octavo
