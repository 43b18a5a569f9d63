#include "coordinator/router/model_table.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

bool Serves(const v1::ModelInfo& model) {
  return model.state() == "ready" || model.state() == "recovering";
}

}  // namespace

void ModelTable::Put(const v1::ModelInfo& model) {
  MutexLock lock(mutex_);
  models_[model.model_id()] = model;
}

void ModelTable::Remove(const std::string& model_id) {
  MutexLock lock(mutex_);
  models_.erase(model_id);
}

void ModelTable::SetBeside(std::vector<v1::ModelInfo> models) {
  MutexLock lock(mutex_);
  beside_ = std::move(models);
}

std::vector<v1::ModelInfo> ModelTable::List() const {
  MutexLock lock(mutex_);
  std::vector<v1::ModelInfo> list;
  for (const auto& [id, model] : models_) list.push_back(model);
  list.insert(list.end(), beside_.begin(), beside_.end());
  return list;
}

absl::StatusOr<v1::ModelInfo> ModelTable::Find(const std::string& model) const {
  MutexLock lock(mutex_);
  if (model.empty() && models_.size() == 1) return models_.begin()->second;
  if (const auto it = models_.find(model); it != models_.end()) return it->second;
  std::vector<std::string> names;
  for (const auto& [id, entry] : models_) names.push_back(id);
  if (!model.empty()) {
    return MakeError(
        Reason::kNotFound,
        fmt::format("no model is called '{}'; loaded: [{}]", model, fmt::join(names, ", ")), {},
        "load it, or name one of these");
  }
  if (names.empty()) {
    return MakeError(Reason::kNotReady, "no model is loaded", {}, "run octavo serve DIR");
  }
  return MakeError(Reason::kBadRequest,
                   fmt::format("several models are loaded: [{}]", fmt::join(names, ", ")), {},
                   "name one in the field 'model'");
}

absl::StatusOr<v1::ModelInfo> ModelTable::Route(const std::string& model) const {
  OCTAVO_ASSIGN_OR_RETURN(v1::ModelInfo info, Find(model));
  if (Serves(info)) return info;
  std::string what = fmt::format("model '{}' is {}", info.model_id(), info.state());
  if (info.has_failure()) what += ": " + info.failure().message();
  return MakeError(Reason::kNotReady, what, {}, "try again when it is ready");
}

bool ModelTable::StillServing(const v1::ModelInfo& model) const {
  MutexLock lock(mutex_);
  const auto is_it = [&](const v1::ModelInfo& other) {
    return other.group_epoch() == model.group_epoch() &&
           (Serves(other) || other.state() == "draining");
  };
  const auto it = models_.find(model.model_id());
  return (it != models_.end() && is_it(it->second)) || std::ranges::any_of(beside_, is_it);
}

void ModelTable::SetWorkers(std::vector<std::string> addresses) {
  MutexLock lock(mutex_);
  workers_ = std::move(addresses);
}

std::vector<std::string> ModelTable::Workers() const {
  MutexLock lock(mutex_);
  std::set<std::string> all(workers_.begin(), workers_.end());
  for (const auto& [id, model] : models_) {
    if (!model.leader_address().empty()) all.insert(model.leader_address());
  }
  for (const v1::ModelInfo& model : beside_) {
    if (!model.leader_address().empty()) all.insert(model.leader_address());
  }
  return {all.begin(), all.end()};
}

}  // namespace octavo
