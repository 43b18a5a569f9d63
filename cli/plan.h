#pragma once

// The text (or JSON) of a plan, for `octavo plan` and `octavo quantize --dry-run`.

#include <string>

#include "absl/status/status.h"
#include "cli/calibration_source.h"
#include "cli/context.h"

namespace octavo {

struct PlanFlags {
  std::string source;
  std::string recipe = "fp8-dynamic";
  std::string compat = {};
  CalibrationFlags calibration;
  int workers = 1;
  std::string memory = "1GiB";
  bool own_machines = false;
  bool scaling = false;  // a table for 1 to 256 workers on machines of their own
  bool json = false;
};

absl::Status PrintPlan(const Context& context, const PlanFlags& flags);

}  // namespace octavo
