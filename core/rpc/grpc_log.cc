#include "core/rpc/grpc_log.h"

#include <mutex>

#include "core/base/log.h"
#include "grpc/support/log.h"

namespace octavo {

void RouteGrpcLog() {
  static std::once_flag once;
  std::call_once(once, [] {
    gpr_set_log_function([](gpr_log_func_args* line) { spdlog::debug("grpc: {}", line->message); });
  });
}

}  // namespace octavo
