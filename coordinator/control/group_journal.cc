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

StateStore::Write PutGroup(const v1::ModelInfo& group) {
  return {"group/" + group.model_id(), group.SerializeAsString()};
}

StateStore::Write EraseGroup(const std::string& model_id) {
  return {"group/" + model_id, std::nullopt};
}

absl::StatusOr<std::vector<LoadedModel>> LoadModels(StateStore& store) {
  const auto damaged = [](const std::string& key) {
    return MakeError(Reason::kCorrupted, fmt::format("journal: entry '{}' is damaged", key), {},
                     "Remove the state folder to start over");
  };
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<StateStore::Entry> entries, store.Scan("model/"));
  std::vector<LoadedModel> models(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    if (!models[i].request.ParseFromString(entries[i].value)) return damaged(entries[i].key);
    const std::string key = "group/" + models[i].request.model_id();
    OCTAVO_ASSIGN_OR_RETURN(const std::optional<std::string> group, store.Get(key));
    if (!group.has_value()) continue;
    if (!models[i].group.emplace().ParseFromString(*group)) return damaged(key);
  }
  return models;
}

}  // namespace octavo
