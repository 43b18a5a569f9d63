#pragma once

// How jobs lie in the StateStore:
//
//   incarnation              times that a coordinator opened this store, decimal
//   job/ID                   v1::Job, without progress
//   plan/ID                  PlanDigest of the plan that the receipts belong to
//   receipt/ID/UNIT          v1::Receipt of a finished unit
//   lease/ID/UNIT            "EPOCH WORKER" of a unit that is out
//
// The plan itself is not kept: it is a pure function of source and recipe, and its digest proves
// that it is still the same.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/state/state_store.h"
#include "octavo/v1/job.pb.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

// Counts this opening of the store; durable. Epochs of different incarnations never meet.
absl::StatusOr<uint64_t> NextIncarnation(StateStore& store);

StateStore::Write PutJob(const v1::Job& job);
StateStore::Write PutPlanDigest(const std::string& job_id, const std::string& digest);
StateStore::Write PutReceipt(const v1::Receipt& receipt);
StateStore::Write EraseReceipt(const std::string& job_id, uint32_t unit);
StateStore::Write PutLease(const std::string& job_id, uint32_t unit, uint64_t epoch,
                           const std::string& worker);
StateStore::Write EraseLease(const std::string& job_id, uint32_t unit);

// kCorrupted where a value cannot be parsed.
absl::StatusOr<std::vector<v1::Job>> LoadJobs(StateStore& store);
absl::StatusOr<std::optional<std::string>> LoadPlanDigest(StateStore& store,
                                                          const std::string& job_id);
absl::StatusOr<std::vector<v1::Receipt>> LoadReceipts(StateStore& store, const std::string& job_id);

// Deletes plan digest, receipts and leases of a job; the job itself stays.
absl::StatusOr<std::vector<StateStore::Write>> EraseWork(StateStore& store,
                                                         const std::string& job_id);

}  // namespace octavo
