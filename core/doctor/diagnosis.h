#pragma once

// What three readers make of a checkpoint folder, and why: the rules of symptoms.h applied to what
// folder.h found.

#include <array>
#include <string>
#include <vector>

#include "core/doctor/finding.h"
#include "core/doctor/folder.h"
#include "core/doctor/verdict.h"

namespace octavo {

struct Diagnosis {
  std::array<Verdict, 3> verdicts = {};  // by Reader
  std::string dialect;                   // "compressed-tensors", "fp8", "quark", "none"
  Findings findings;                     // the worst first, then in the order of the folder
  // Octavo's loader said no, for a reason that no finding names.
  bool loader_knows_more = false;

  Verdict Of(Reader reader) const { return verdicts[static_cast<size_t>(reader)]; }
};

Diagnosis Diagnose(const Folder& folder);

}  // namespace octavo
