#pragma once

// What --calibration means: the name of a file, or "random"; and how that becomes the calibration
// set of a request.

#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "octavo/v1/job.pb.h"
#include "octavo/v1/recipe.pb.h"

namespace CLI {
class App;
}

namespace octavo {

struct CalibrationFlags {
  std::string input = {};  // a file, or "random" (a file of that name is ./random); empty: none
  std::optional<uint32_t> samples = {};  // absent: as the recipe says
  std::optional<uint32_t> sample_length =
      {};  // absent: as the recipe says, within the model's positions
  std::optional<uint64_t> seed = {};
  std::string packing = {};  // "pack", "each"; empty: by the kind of file
};
void AddCalibrationFlags(CLI::App& command, CalibrationFlags& flags);

// The set that `recipe` calibrates with, tokenized as the checkpoint in `source_dir` does; nothing
// where the recipe has no static scales. Progress and warnings go to standard error. Errors: kUsage
// for flags that the recipe lacks or has no use for, those of core/text/calibration_text.h and of
// reading the checkpoint's tokenizer and config.json; kCancelled.
absl::StatusOr<std::optional<v1::CalibrationSet>> LoadCalibration(const v1::Recipe& recipe,
                                                                  const std::string& source_dir,
                                                                  const CalibrationFlags& flags,
                                                                  std::stop_token stop = {});

}  // namespace octavo
