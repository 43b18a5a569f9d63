#pragma once

// How models lie in the StateStore, beside jobs (job_journal.h):
//
//   model/ID                 v1::LoadModelRequest, with its defaults, from Load to Unload
//   group/ID                 v1::ModelInfo of the group that serves it, from ready until it breaks
//   next/ID                  v1::LoadModelRequest that loads beside it, until it takes its place
//   leaving/EPOCH            v1::ModelInfo of a group that gave its place up, until it is drained
//   drain/WORKER             empty: this worker gets no new work
//
// A model that failed before it ever served is taken out, because whoever asked for it was told so.
// A group's entry is gone before its ranks are told to abort, so that one that is there may be
// whole.

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/state/state_store.h"
#include "octavo/v1/inference.pb.h"

namespace octavo {

StateStore::Write PutModel(const v1::LoadModelRequest& request);
StateStore::Write EraseModel(const std::string& model_id);

StateStore::Write PutGroup(const v1::ModelInfo& group);
StateStore::Write EraseGroup(const std::string& model_id);

StateStore::Write PutSuccessor(const v1::LoadModelRequest& request);
StateStore::Write EraseSuccessor(const std::string& model_id);

StateStore::Write PutLeaving(const v1::ModelInfo& group);
StateStore::Write EraseLeaving(uint64_t epoch);

StateStore::Write PutDraining(const std::string& worker_id, bool draining);

struct LoadedModel {
  v1::LoadModelRequest request;
  std::optional<v1::ModelInfo> group;
};
// kCorrupted where a value cannot be parsed.
absl::StatusOr<std::vector<LoadedModel>> LoadModels(StateStore& store);
absl::StatusOr<std::vector<v1::LoadModelRequest>> LoadSuccessors(StateStore& store);
absl::StatusOr<std::vector<v1::ModelInfo>> LoadLeaving(StateStore& store);
absl::StatusOr<std::vector<std::string>> LoadDraining(StateStore& store);

}  // namespace octavo
