#pragma once

// Keeps a ModelTable as the coordinator has it, for a gateway that is a process of its own: asks
// for models and workers several times a second. While the coordinator is away the table stays as
// it was, because groups go on without it for a while.

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/router/model_table.h"

namespace octavo {

class ModelFeed {
 public:
  // Returns when the table was filled for the first time; `table` outlives the feed. kUnreachable
  // where the coordinator does not answer within `patience`, kUnauthenticated.
  static absl::StatusOr<std::unique_ptr<ModelFeed>> Start(const std::string& coordinator,
                                                          const std::string& token,
                                                          ModelTable* table,
                                                          std::chrono::milliseconds patience);
  ~ModelFeed();

 private:
  class Impl;
  explicit ModelFeed(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
  std::jthread thread_;
};

}  // namespace octavo
