#pragma once

// A command's connection to a cluster: one of its own, started for this command and stopped at its
// end, or a resident one named by --coordinator.

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/context.h"
#include "cli/launcher.h"

namespace CLI {
class App;
}
namespace grpc {
class Channel;
class ClientContext;
}  // namespace grpc

namespace octavo {

// Flags that say which cluster.
struct ClusterFlags {
  std::string coordinator;  // host:port; empty: a local cluster
  std::string token_file;
  int workers = 1;
  std::string memory = "1GiB";
  int threads = 0;
  int port = 0;  // of the local coordinator; 0: any
  std::string isa;
  std::string collectives;
};
void AddCoordinatorFlags(CLI::App& command, ClusterFlags& flags);
// The former and those of a local cluster (--workers, --memory, --threads, --isa,
// --collectives).
void AddClusterFlags(CLI::App& command, ClusterFlags& flags);

class Session {
 public:
  static absl::StatusOr<std::unique_ptr<Session>> Remote(const Context& context,
                                                         const ClusterFlags& flags);
  // `state_dir` holds journal and logs; it is made if missing and not removed.
  static absl::StatusOr<std::unique_ptr<Session>> Local(const Context& context,
                                                        const ClusterFlags& flags,
                                                        const std::string& state_dir);
  // Remote where flags.coordinator is set; otherwise a local cluster in a temporary state folder,
  // removed at the end.
  static absl::StatusOr<std::unique_ptr<Session>> Open(const Context& context,
                                                       const ClusterFlags& flags);
  ~Session();

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  const std::string& address() const { return address_; }
  LocalCluster* local() const { return local_.get(); }  // null when remote
  // OK while the cluster can be expected to answer again.
  absl::Status Health() const;
  // Ends a local cluster; idempotent.
  void Stop();

 private:
  Session() = default;
  void WatchLeases(std::stop_token stop);

  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<LocalCluster> local_;
  std::string temporary_dir_;
  std::jthread lease_watch_;
};

// Runs `call` until it gives something else than kUnreachable, the cluster is broken, `patience` is
// over or `stop` says so (then kCancelled): a local coordinator that died is back within a second.
absl::Status Retry(const Session& session, std::chrono::milliseconds patience,
                   const std::function<bool()>& stop, const std::function<absl::Status()>& call);

}  // namespace octavo
