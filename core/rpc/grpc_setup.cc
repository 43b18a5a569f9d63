#include "core/rpc/grpc_setup.h"

#include <stdlib.h>

#include <mutex>

#include "absl/synchronization/mutex.h"
#include "core/base/log.h"
#include "grpc/support/log.h"

namespace octavo {

void SetUpGrpc() {
  static std::once_flag once;
  std::call_once(once, [] {
    gpr_set_log_function([](gpr_log_func_args* line) { spdlog::debug("grpc: {}", line->message); });
    // Debian's Abseil looks for cycles of locks at every lock that gRPC takes.
    absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
    setenv("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "100", /*overwrite=*/0);
  });
}

}  // namespace octavo
