#pragma once

// What one round of decisions wants done: writes, made durable in one batch first, then directives.

#include <string>
#include <utility>
#include <vector>

#include "coordinator/state/state_store.h"
#include "octavo/v1/cluster.pb.h"

namespace octavo {

struct Outbox {
  std::vector<StateStore::Write> writes;
  std::vector<std::pair<std::string, v1::Directive>> directives;  // by worker id
  bool leased = false;                                            // some of them are new leases
};

}  // namespace octavo
