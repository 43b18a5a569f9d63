// What serving groups a coordinator finds in its journal when it starts.

#include "coordinator/control/group_desk.h"
#include "coordinator/control/group_journal.h"
#include "core/base/log.h"
#include "core/base/status.h"

namespace octavo {

absl::Status GroupDesk::Recover() {
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<v1::LoadModelRequest> models,
                          LoadModels(*parts_.store));
  for (const v1::LoadModelRequest& request : models) {
    Group& group = Begin(request);
    // Whoever asked for it is gone: it waits for workers like a group that lost some.
    group.served = true;
    SetState(group, kReforming);
    spdlog::info("model {}: loaded before this coordinator started", request.model_id());
  }
  return absl::OkStatus();
}

}  // namespace octavo
