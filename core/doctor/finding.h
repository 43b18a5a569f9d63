#pragma once

// What is wrong with a folder, one thing at a time.

#include <cstdint>
#include <string>
#include <vector>

#include "core/doctor/symptoms.h"

namespace octavo {

struct Finding {
  Symptom symptom;
  std::string what = {};    // what is wrong, for people
  std::string file = {};    // where; parts that mean nothing are empty
  std::string tensor = {};  // a tensor or a module
  std::string key = {};     // of config.json
};

using Findings = std::vector<Finding>;

}  // namespace octavo
