#include "worker/serve/token_log.h"

#include "core/base/error.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// What the containers take for a request and for an answer, roughly.
constexpr size_t kEntryBytes = 256;
constexpr size_t kAnswerBytes = 96;

}  // namespace

TokenLog::Ticket TokenLog::Begin(const v1::EngineRequest& request) {
  MutexLock lock(mutex_);
  auto entry = Find(request.request_id());
  if (entry != entries_.end() && entry->note != request.note()) {
    Drop(entry);
    entry = entries_.end();
  }
  if (entry == entries_.end()) {
    entry = entries_.insert(entries_.begin(), Entry{.number = ++last_number_,
                                                    .request_id = request.request_id(),
                                                    .note = request.note()});
    by_id_[entry->request_id] = entry;
    Charge(entry, kEntryBytes + 2 * entry->request_id.size() + entry->note.size());
  }
  const Ticket ticket{.request_id = request.request_id(),
                      .entry = entry->number,
                      .choice = request.choice(),
                      .writer = ++last_number_};
  const auto [answer, is_new] = entry->answers.try_emplace(request.choice());
  if (is_new) Charge(entry, kAnswerBytes);
  bytes_ -= answer->second.told.size();
  entry->bytes -= answer->second.told.size();
  answer->second = {.told = request.told(), .writer = ticket.writer};
  Charge(entry, answer->second.told.size());
  Touch(entry);
  Bound(entry);
  return ticket;
}

void TokenLog::Append(const Ticket& ticket, const v1::EngineEvent& event) {
  v1::EngineEvent kept;
  *kept.mutable_tokens() = event.tokens();
  if (event.finish() == v1::FINISH_STOP || event.finish() == v1::FINISH_LENGTH) {
    kept.set_finish(event.finish());
    kept.set_stop_id(event.stop_id());
  }
  const std::string bytes = kept.SerializeAsString();
  MutexLock lock(mutex_);
  const auto entry = Find(ticket.request_id);
  if (entry == entries_.end() || entry->number != ticket.entry) return;
  const auto answer = entry->answers.find(ticket.choice);
  if (answer == entry->answers.end() || answer->second.writer != ticket.writer) return;
  answer->second.told += bytes;
  Charge(entry, bytes.size());
  Touch(entry);
  Bound(entry);
}

bool TokenLog::Holds(const Ticket& ticket) const {
  MutexLock lock(mutex_);
  const auto entry = Find(ticket.request_id);
  if (entry == entries_.end() || entry->number != ticket.entry) return true;
  const auto answer = entry->answers.find(ticket.choice);
  return answer == entry->answers.end() || answer->second.writer == ticket.writer;
}

absl::StatusOr<v1::LoggedRequest> TokenLog::Get(const std::string& request_id) {
  MutexLock lock(mutex_);
  const auto entry = Find(request_id);
  if (entry == entries_.end()) {
    return MakeError(Reason::kNotFound,
                     fmt::format("this worker remembers no request '{}'", request_id));
  }
  v1::LoggedRequest logged;
  logged.set_note(entry->note);
  for (const auto& [choice, answer] : entry->answers) {
    v1::LoggedAnswer& out = *logged.add_answers();
    out.set_choice(choice);
    out.set_told(answer.told);
  }
  Touch(entry);
  return logged;
}

size_t TokenLog::requests() const {
  MutexLock lock(mutex_);
  return entries_.size();
}

size_t TokenLog::bytes() const {
  MutexLock lock(mutex_);
  return bytes_;
}

TokenLog::Entries::iterator TokenLog::Find(const std::string& request_id) const {
  const auto found = by_id_.find(request_id);
  return found == by_id_.end() ? entries_.end() : found->second;
}

void TokenLog::Touch(Entries::iterator entry) {
  entries_.splice(entries_.begin(), entries_, entry);
}

void TokenLog::Charge(Entries::iterator entry, size_t bytes) {
  entry->bytes += bytes;
  bytes_ += bytes;
}

void TokenLog::Drop(Entries::iterator entry) {
  bytes_ -= entry->bytes;
  by_id_.erase(entry->request_id);
  entries_.erase(entry);
}

void TokenLog::Bound(Entries::iterator latest) {
  if (latest->bytes > limits_.request_bytes) Drop(latest);
  while (!entries_.empty() && (entries_.size() > limits_.requests || bytes_ > limits_.bytes)) {
    Drop(std::prev(entries_.end()));
  }
}

}  // namespace octavo
