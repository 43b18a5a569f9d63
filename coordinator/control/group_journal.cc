#include "coordinator/control/group_journal.h"

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {

StateStore::Write PutModel(const v1::LoadModelRequest& request) {
  return {"model/" + request.model_id(), request.SerializeAsString()};
}

StateStore::Write EraseModel(const std::string& model_id) {
  return {"model/" + model_id, std::nullopt};
}

absl::StatusOr<std::vector<v1::LoadModelRequest>> LoadModels(StateStore& store) {
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<StateStore::Entry> entries, store.Scan("model/"));
  std::vector<v1::LoadModelRequest> models(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    if (models[i].ParseFromString(entries[i].value)) continue;
    return MakeError(Reason::kCorrupted,
                     fmt::format("journal: entry '{}' is damaged", entries[i].key), {},
                     "Remove the state folder to start over");
  }
  return models;
}

}  // namespace octavo
