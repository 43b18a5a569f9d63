#pragma once

// How models lie in the StateStore, beside jobs (job_journal.h):
//
//   model/ID                 v1::LoadModelRequest, with its defaults filled in: what was asked of
//   Load
//
// There from Load to Unload; a model that failed before it ever served is taken out, because
// whoever asked for it was told so.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/state/state_store.h"
#include "octavo/v1/inference.pb.h"

namespace octavo {

StateStore::Write PutModel(const v1::LoadModelRequest& request);
StateStore::Write EraseModel(const std::string& model_id);

// kCorrupted where a value cannot be parsed.
absl::StatusOr<std::vector<v1::LoadModelRequest>> LoadModels(StateStore& store);

}  // namespace octavo
