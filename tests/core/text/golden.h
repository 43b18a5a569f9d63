#pragma once

// The expected values in tests/golden/text, written by tests/oracle/make_text_golden.py.

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace octavo {

inline std::string ReadGolden(const std::string& name) {
  std::ifstream file(OCTAVO_SOURCE_DIR "/tests/golden/text/" + name, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << name;
  return {std::istreambuf_iterator<char>(file), {}};
}

// One JSON value a line.
inline std::vector<nlohmann::json> ReadGoldenLines(const std::string& name) {
  std::ifstream file(OCTAVO_SOURCE_DIR "/tests/golden/text/" + name, std::ios::binary);
  std::vector<nlohmann::json> values;
  for (std::string line; std::getline(file, line);) values.push_back(nlohmann::json::parse(line));
  EXPECT_FALSE(values.empty()) << name;
  return values;
}

}  // namespace octavo
