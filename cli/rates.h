#pragma once

// This machine's rates, as `octavo bench` measured them last: what `octavo plan` reckons time with.
// Kept in places.state_dir/rates.json.

#include "absl/status/status.h"
#include "cli/context.h"
#include "coordinator/planner/estimate.h"

namespace octavo {

// All zero where nothing was measured.
MachineRates LoadRates(const UserPlaces& places);
absl::Status SaveRates(const UserPlaces& places, const MachineRates& rates);

}  // namespace octavo
