#include "coordinator/control/job_journal.h"

#include <charconv>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

std::string ReceiptKey(const std::string& job_id, uint32_t unit) {
  return fmt::format("receipt/{}/{:010}", job_id, unit);
}
std::string LeaseKey(const std::string& job_id, uint32_t unit) {
  return fmt::format("lease/{}/{:010}", job_id, unit);
}

template <typename Message>
absl::StatusOr<std::vector<Message>> LoadAll(StateStore& store, const std::string& prefix) {
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<StateStore::Entry> entries, store.Scan(prefix));
  std::vector<Message> out(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    if (!out[i].ParseFromString(entries[i].value)) {
      return MakeError(Reason::kCorrupted,
                       fmt::format("journal: entry '{}' is damaged", entries[i].key), {},
                       "Remove the state folder to start over");
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<uint64_t> NextIncarnation(StateStore& store) {
  OCTAVO_ASSIGN_OR_RETURN(const std::optional<std::string> last, store.Get("incarnation"));
  uint64_t count = 0;
  if (last) std::from_chars(last->data(), last->data() + last->size(), count);
  ++count;
  const StateStore::Write write{"incarnation", std::to_string(count)};
  OCTAVO_RETURN_IF_ERROR(store.Apply({&write, 1}));
  return count;
}

StateStore::Write PutJob(const v1::Job& job) {
  v1::Job kept = job;
  kept.clear_progress();
  return {"job/" + job.id(), kept.SerializeAsString()};
}
StateStore::Write PutPlanDigest(const std::string& job_id, const std::string& digest) {
  return {"plan/" + job_id, digest};
}
StateStore::Write PutReceipt(const v1::Receipt& receipt) {
  return {ReceiptKey(receipt.job_id(), receipt.unit_id()), receipt.SerializeAsString()};
}
StateStore::Write EraseReceipt(const std::string& job_id, uint32_t unit) {
  return {ReceiptKey(job_id, unit), std::nullopt};
}
StateStore::Write PutLease(const std::string& job_id, uint32_t unit, uint64_t epoch,
                           const std::string& worker) {
  return {LeaseKey(job_id, unit), fmt::format("{} {}", epoch, worker)};
}
StateStore::Write EraseLease(const std::string& job_id, uint32_t unit) {
  return {LeaseKey(job_id, unit), std::nullopt};
}

absl::StatusOr<std::vector<v1::Job>> LoadJobs(StateStore& store) {
  return LoadAll<v1::Job>(store, "job/");
}

absl::StatusOr<std::optional<std::string>> LoadPlanDigest(StateStore& store,
                                                          const std::string& job_id) {
  return store.Get("plan/" + job_id);
}

absl::StatusOr<std::vector<v1::Receipt>> LoadReceipts(StateStore& store,
                                                      const std::string& job_id) {
  return LoadAll<v1::Receipt>(store, fmt::format("receipt/{}/", job_id));
}

absl::StatusOr<std::vector<StateStore::Write>> EraseWork(StateStore& store,
                                                         const std::string& job_id) {
  std::vector<StateStore::Write> writes{{"plan/" + job_id, std::nullopt}};
  for (const char* kind : {"receipt", "lease"}) {
    OCTAVO_ASSIGN_OR_RETURN(std::vector<StateStore::Entry> entries,
                            store.Scan(fmt::format("{}/{}/", kind, job_id)));
    for (StateStore::Entry& entry : entries) {
      writes.push_back({std::move(entry.key), std::nullopt});
    }
  }
  return writes;
}

}  // namespace octavo
