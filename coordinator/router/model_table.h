#pragma once

// The models being served and where their leader ranks are: written by coordinator/control as
// groups form, break and form again (or by a gateway of its own, which asks the coordinator), read
// by the gateway for every request.

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/mutex.h"
#include "octavo/v1/inference.pb.h"

namespace octavo {

// Thread-safe.
class ModelTable {
 public:
  // Inserts or replaces the entry with this model_id.
  void Put(const v1::ModelInfo& model);
  void Remove(const std::string& model_id);
  // What there is beside those entries, all of it: successors that load and groups that drain. No
  // new request goes to them.
  void SetBeside(std::vector<v1::ModelInfo> models);

  // The entries sorted by model id, then what is beside them.
  std::vector<v1::ModelInfo> List() const;

  // The entry called `model`, in whatever state; an empty name means the only one there is.
  // Errors: kNotFound (naming the models there are), kNotReady (the table is empty and no model was
  // named), kBadRequest (several and none named).
  absl::StatusOr<v1::ModelInfo> Find(const std::string& model) const;

  // As Find, for an entry that can take a request now: one that is ready, or that was and is being
  // looked for by a coordinator that started anew. Errors as Find, kNotReady while the group loads
  // or forms again or has failed (with its failure).
  absl::StatusOr<v1::ModelInfo> Route(const std::string& model) const;

  // Whether the group that `model` (a result of Route) described still serves: requests that it
  // has, if not new ones.
  bool StillServing(const v1::ModelInfo& model) const;

  // The engine addresses of the workers that are attached.
  void SetWorkers(std::vector<std::string> addresses);
  // Those, and the leaders of models, which need not be attached yet; each once.
  std::vector<std::string> Workers() const;

 private:
  mutable Mutex mutex_;
  std::vector<std::string> workers_ OCTAVO_GUARDED_BY(mutex_);
  std::map<std::string, v1::ModelInfo> models_ OCTAVO_GUARDED_BY(mutex_);
  std::vector<v1::ModelInfo> beside_ OCTAVO_GUARDED_BY(mutex_);
};

}  // namespace octavo
