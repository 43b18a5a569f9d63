#include "worker/comm/process_group.h"

#include "core/base/log.h"
#include "core/base/status.h"
#include "worker/comm/gloo_group.h"
#include "worker/comm/host_group.h"
#include "worker/comm/local_group.h"

namespace octavo {

absl::StatusOr<std::unique_ptr<Communicator>> MakeProcessGroup(const GroupOptions& options,
                                                               const Rendezvous& rendezvous) {
  if (options.size == 1) return std::move(MakeLocalGroup(1)[0]);
  OCTAVO_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> group, MakeHostGroup(options, rendezvous));
  spdlog::info("rank {} of {} meets the others {}", options.rank, options.size,
               group != nullptr ? "in shared memory" : "over TCP");
  if (group != nullptr) return group;
  return MakeGlooGroup(options, rendezvous);
}

}  // namespace octavo
