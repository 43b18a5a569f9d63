#include "coordinator/control/group_journal.h"

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

const std::string kDrainPrefix = "drain/";

}  // namespace

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

StateStore::Write PutSuccessor(const v1::LoadModelRequest& request) {
  return {"next/" + request.model_id(), request.SerializeAsString()};
}

StateStore::Write EraseSuccessor(const std::string& model_id) {
  return {"next/" + model_id, std::nullopt};
}

StateStore::Write PutLeaving(const v1::ModelInfo& group) {
  return {fmt::format("leaving/{}", group.group_epoch()), group.SerializeAsString()};
}

StateStore::Write EraseLeaving(uint64_t epoch) {
  return {fmt::format("leaving/{}", epoch), std::nullopt};
}

StateStore::Write PutDraining(const std::string& worker_id, bool draining) {
  if (!draining) return {kDrainPrefix + worker_id, std::nullopt};
  return {kDrainPrefix + worker_id, ""};
}

absl::StatusOr<std::vector<std::string>> LoadDraining(StateStore& store) {
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<StateStore::Entry> entries, store.Scan(kDrainPrefix));
  std::vector<std::string> workers;
  for (const auto& entry : entries) workers.push_back(entry.key.substr(kDrainPrefix.size()));
  return workers;
}

namespace {

absl::Status Damaged(const std::string& key) {
  return MakeError(Reason::kCorrupted, fmt::format("journal: entry '{}' is damaged", key), {},
                   "Remove the state folder to start over");
}

template <typename Message>
absl::StatusOr<std::vector<Message>> LoadAll(StateStore& store, const std::string& prefix) {
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<StateStore::Entry> entries, store.Scan(prefix));
  std::vector<Message> messages(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    if (!messages[i].ParseFromString(entries[i].value)) return Damaged(entries[i].key);
  }
  return messages;
}

}  // namespace

absl::StatusOr<std::vector<v1::LoadModelRequest>> LoadSuccessors(StateStore& store) {
  return LoadAll<v1::LoadModelRequest>(store, "next/");
}

absl::StatusOr<std::vector<v1::ModelInfo>> LoadLeaving(StateStore& store) {
  return LoadAll<v1::ModelInfo>(store, "leaving/");
}

absl::StatusOr<std::vector<LoadedModel>> LoadModels(StateStore& store) {
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<v1::LoadModelRequest> requests,
                          LoadAll<v1::LoadModelRequest>(store, "model/"));
  std::vector<LoadedModel> models;
  for (const v1::LoadModelRequest& request : requests) {
    LoadedModel& model = models.emplace_back(LoadedModel{.request = request, .group = {}});
    const std::string key = "group/" + request.model_id();
    OCTAVO_ASSIGN_OR_RETURN(const std::optional<std::string> group, store.Get(key));
    if (!group.has_value()) continue;
    if (!model.group.emplace().ParseFromString(*group)) return Damaged(key);
  }
  return models;
}

}  // namespace octavo
