#pragma once

// The file that a user hands to calibration, line by line: what kind of file it is, and one line of
// JSON turned into what calibration needs of it. Every error names the line, counted from 1.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace octavo {

inline constexpr size_t kCalibrationFileBytesMax = size_t{256} << 20;
inline constexpr size_t kCalibrationLinesMax = 4'000'000;

enum class CalibrationKind {
  kText,          // plain text
  kJsonText,      // a line: {"text": "..."}
  kJsonMessages,  // a line: {"messages": [{"role": "user", "content": "..."}, ...]}
  kJsonIds,       // a line: {"ids": [1, 2, ...]}
};

// "plain text", "JSON lines with \"text\"", ...
std::string_view NameOf(CalibrationKind kind);

// A line that is not blank.
struct CalibrationLine {
  size_t number = 0;  // in the file, from 1
  std::string_view text;
};

struct CalibrationFile {
  std::string name;  // in errors
  std::string_view bytes;
  CalibrationKind kind = CalibrationKind::kText;
};

// Finds the kind. By the name: .jsonl, .ndjson and .json hold JSON lines, .txt and .md plain text.
// In a file of any other name, JSON lines begin with an object that has one of the three keys. The
// first line decides for all. Errors: kBadData for a file that is empty or blank, larger than
// kCalibrationFileBytesMax or not UTF-8, and for a first line of JSON without any or with several
// of the keys.
absl::StatusOr<CalibrationFile> OpenCalibrationFile(std::string_view bytes, std::string_view name);

// The lines that hold more than white space. Errors: kBadData beyond kCalibrationLinesMax.
absl::StatusOr<std::vector<CalibrationLine>> LinesOf(const CalibrationFile& file);

// What a line of JSON says. Keys other than "text", "messages", "ids" and "tools" are passed over:
// data sets carry much else. Errors, all kBadData: malformed JSON (also nested deeper than
// kJsonDepthMax or with a key twice), another kind than the file's, a value of the wrong type.
absl::StatusOr<std::string> TextOfLine(const CalibrationFile& file, const CalibrationLine& line);
// "messages", not empty, of objects with a "role"; and "tools" where the line has them.
absl::StatusOr<nlohmann::ordered_json> ConversationOfLine(const CalibrationFile& file,
                                                          const CalibrationLine& line);
// At least one id, each in [0, vocabulary).
absl::StatusOr<std::vector<int32_t>> IdsOfLine(const CalibrationFile& file,
                                               const CalibrationLine& line, int64_t vocabulary);

// kBadData: "line N: what: file F. cure".
absl::Status LineError(const CalibrationFile& file, const CalibrationLine& line,
                       std::string_view what, std::string_view cure = {});

}  // namespace octavo
