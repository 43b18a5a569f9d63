#pragma once

// How models lie in the StateStore, beside jobs (job_journal.h):
//
//   model/ID                 v1::LoadModelRequest, with its defaults, from Load to Unload
//   group/ID                 v1::ModelInfo of the group that serves it, from ready until it breaks
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

struct LoadedModel {
  v1::LoadModelRequest request;
  std::optional<v1::ModelInfo> group;
};
// kCorrupted where a value cannot be parsed.
absl::StatusOr<std::vector<LoadedModel>> LoadModels(StateStore& store);

}  // namespace octavo
