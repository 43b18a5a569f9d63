#pragma once

// How commands find a cluster that `octavo up` keeps: DIR/cluster.json (readable by its owner only,
// for it holds the token), and a per-user register of tokens by address, so that
// `--coordinator HOST:PORT` alone is enough on the same machine.

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/context.h"
#include "cli/launcher.h"

namespace octavo {

struct ClusterRecord {
  std::string address;  // of the coordinator
  std::string metrics;  // of the coordinator
  std::string token;
  pid_t keeper_pid = 0;  // the process that keeps it: `octavo down` ends this one
  std::vector<ProcessInfo> processes;
};

std::string ClusterFilePath(const std::string& state_dir);

// Replaces the file in one rename, mode 0600.
absl::Status WriteClusterFile(const std::string& state_dir, const ClusterRecord& record);
// kNotFound when there is none, kBadRequest when it is not one.
absl::StatusOr<ClusterRecord> ReadClusterFile(const std::string& state_dir);

// The register: one file of mode 0600 per address under places.state_dir/clusters.
absl::Status RegisterToken(const UserPlaces& places, const std::string& address,
                           const std::string& token);
void ForgetToken(const UserPlaces& places, const std::string& address);

// The token for `address`: from `token_file` when given, else the environment, else the register,
// else empty (a cluster without authentication).
absl::StatusOr<std::string> FindToken(const UserPlaces& places, const std::string& address,
                                      const std::string& token_file);

}  // namespace octavo
