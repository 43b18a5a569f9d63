#pragma once

// DST.octavo: where a local quantization keeps its journal, its logs and its staging folders. One
// command at a time owns it.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/context.h"
#include "cli/process.h"
#include "cli/session.h"
#include "cli/stop_signal.h"

namespace octavo {

class JobFolder {
 public:
  // Makes the folder and locks it; kBusy when another command holds it.
  static absl::StatusOr<std::unique_ptr<JobFolder>> Open(const std::string& output_dir);

  // A local cluster with its state here. The coordinator of a command that was killed may still be
  // on its way out, holding the journal's lock: that is waited for.
  absl::StatusOr<std::unique_ptr<Session>> StartCluster(const Context& context,
                                                        const ClusterFlags& flags,
                                                        const StopSignal& stop);

  // After the cluster stopped: removes the folder unless a staging folder is left, of this job to
  // resume from or of another one. Without staging a journal is worth nothing.
  ~JobFolder();
  JobFolder(const JobFolder&) = delete;
  JobFolder& operator=(const JobFolder&) = delete;

 private:
  JobFolder(std::string dir, OwnedFd lock) : dir_(std::move(dir)), lock_(std::move(lock)) {}

  std::string dir_;
  OwnedFd lock_;
};

}  // namespace octavo
