#include "core/text/calibration_file.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/text/json_bounded.h"
#include "core/text/tokenizer.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using OrderedJson = nlohmann::ordered_json;

// What a line of JSON can hold takes at most this many bytes of text, and \u escapes six for one.
constexpr size_t kLineBytesMax = 6 * kEncodeBytesMax;

constexpr std::array<std::pair<std::string_view, CalibrationKind>, 3> kKeys = {
    {{"text", CalibrationKind::kJsonText},
     {"messages", CalibrationKind::kJsonMessages},
     {"ids", CalibrationKind::kJsonIds}}};
constexpr std::string_view kJsonLinesCure =
    "Give one JSON object a line, with \"text\", \"messages\" or \"ids\"";

bool IsBlank(std::string_view line) {
  return line.find_first_not_of(" \t\r\v\f") == std::string_view::npos;
}

// Takes the first line off `rest`, without its line feed (and the carriage return before it).
std::string_view TakeLine(std::string_view* rest) {
  const size_t end = rest->find('\n');
  std::string_view line = rest->substr(0, end);
  rest->remove_prefix(end == std::string_view::npos ? rest->size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

// The first line that is not blank; number 0 if there is none.
CalibrationLine FirstLine(std::string_view bytes) {
  for (size_t number = 1; !bytes.empty(); ++number) {
    const std::string_view line = TakeLine(&bytes);
    if (!IsBlank(line)) return {number, line};
  }
  return {};
}

std::optional<size_t> FirstInvalidByte(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = DecodeUtf8(text.substr(at));
    if (next.state != Utf8State::kValid) return at;
    at += next.size;
  }
  return std::nullopt;
}

absl::StatusOr<OrderedJson> ParseLine(const CalibrationFile& file, const CalibrationLine& line) {
  if (line.text.size() > kLineBytesMax) {
    return LineError(file, line,
                     fmt::format("{} bytes, at most {} are read", line.text.size(), kLineBytesMax),
                     "Cut it into several");
  }
  OrderedJson object;
  if (const auto fault = ParseJsonLine(line.text, &object)) {
    return LineError(file, line, *fault, kJsonLinesCure);
  }
  if (!object.is_object()) return LineError(file, line, "not a JSON object", kJsonLinesCure);
  return object;
}

absl::StatusOr<CalibrationKind> KindOfLine(const CalibrationFile& file, const CalibrationLine& line,
                                           const OrderedJson& object) {
  std::optional<std::pair<std::string_view, CalibrationKind>> found;
  for (const auto& key : kKeys) {
    if (!object.contains(key.first)) continue;
    if (found) {
      return LineError(file, line,
                       fmt::format("both \"{}\" and \"{}\" are there", found->first, key.first),
                       "Keep the one to calibrate with");
    }
    found = key;
  }
  if (found) return found->second;
  return LineError(file, line, "none of \"text\", \"messages\" and \"ids\" is there",
                   "Name the member to calibrate with so");
}

// The object of a line, which is of the file's kind.
absl::StatusOr<OrderedJson> ObjectOfLine(const CalibrationFile& file, const CalibrationLine& line) {
  OCTAVO_ASSIGN_OR_RETURN(OrderedJson object, ParseLine(file, line));
  OCTAVO_ASSIGN_OR_RETURN(const CalibrationKind kind, KindOfLine(file, line, object));
  if (kind != file.kind) {
    return LineError(file, line, fmt::format("{} in a file of {}", NameOf(kind), NameOf(file.kind)),
                     "Give each kind a file of its own");
  }
  return object;
}

absl::StatusOr<CalibrationKind> FindKind(const CalibrationFile& file,
                                         const CalibrationLine& first) {
  const auto named = [&](auto... endings) { return (file.name.ends_with(endings) || ...); };
  if (named(".txt", ".md")) return CalibrationKind::kText;
  const bool json = named(".jsonl", ".ndjson", ".json");
  if (!json && !first.text.starts_with('{')) return CalibrationKind::kText;
  const absl::StatusOr<OrderedJson> object = ParseLine(file, first);
  const bool has_key = object.ok() && std::ranges::any_of(kKeys, [&](const auto& key) {
                         return object->contains(key.first);
                       });
  if (!json && !has_key) return CalibrationKind::kText;
  if (!object.ok()) return object.status();
  return KindOfLine(file, first, *object);
}

}  // namespace

std::string_view NameOf(CalibrationKind kind) {
  switch (kind) {
    case CalibrationKind::kJsonText:
      return "JSON lines with \"text\"";
    case CalibrationKind::kJsonMessages:
      return "JSON lines with \"messages\"";
    case CalibrationKind::kJsonIds:
      return "JSON lines with \"ids\"";
    case CalibrationKind::kText:
      break;
  }
  return "plain text";
}

absl::Status LineError(const CalibrationFile& file, const CalibrationLine& line,
                       std::string_view what, std::string_view cure) {
  return MakeError(Reason::kBadData, fmt::format("line {}: {}", line.number, what),
                   {.file = file.name}, cure);
}

absl::StatusOr<CalibrationFile> OpenCalibrationFile(std::string_view bytes, std::string_view name) {
  CalibrationFile file{std::string(name), bytes, CalibrationKind::kText};
  if (bytes.size() > kCalibrationFileBytesMax) {
    return MakeError(Reason::kBadData,
                     fmt::format("{} bytes, calibration reads at most {}", bytes.size(),
                                 kCalibrationFileBytesMax),
                     {.file = name},
                     "Cut the file: calibration needs a few thousand samples at most");
  }
  if (const auto bad = FirstInvalidByte(bytes)) {
    const auto line = 1 + std::ranges::count(bytes.substr(0, *bad), '\n');
    return MakeError(Reason::kBadData, fmt::format("line {}: not UTF-8", line),
                     {.file = name, .offset = *bad}, "Convert the file to UTF-8");
  }
  const CalibrationLine first = FirstLine(bytes);
  if (first.number == 0) {
    return MakeError(Reason::kBadData, "the file has no text", {.file = name},
                     "Give text to calibrate with");
  }
  OCTAVO_ASSIGN_OR_RETURN(file.kind, FindKind(file, first));
  return file;
}

absl::StatusOr<std::vector<CalibrationLine>> LinesOf(const CalibrationFile& file) {
  std::vector<CalibrationLine> lines;
  std::string_view rest = file.bytes;
  for (size_t number = 1; !rest.empty(); ++number) {
    const std::string_view line = TakeLine(&rest);
    if (IsBlank(line)) continue;
    if (lines.size() == kCalibrationLinesMax) {
      return MakeError(Reason::kBadData, fmt::format("more than {} lines", kCalibrationLinesMax),
                       {.file = file.name}, "Cut the file");
    }
    lines.push_back({number, line});
  }
  return lines;
}

absl::StatusOr<std::string> TextOfLine(const CalibrationFile& file, const CalibrationLine& line) {
  OCTAVO_ASSIGN_OR_RETURN(OrderedJson object, ObjectOfLine(file, line));
  OrderedJson& text = object["text"];
  if (!text.is_string()) return LineError(file, line, "\"text\" is not a string");
  return std::move(text.get_ref<std::string&>());
}

absl::StatusOr<OrderedJson> ConversationOfLine(const CalibrationFile& file,
                                               const CalibrationLine& line) {
  OCTAVO_ASSIGN_OR_RETURN(OrderedJson object, ObjectOfLine(file, line));
  const OrderedJson& messages = object["messages"];
  if (!messages.is_array() || messages.empty()) {
    return LineError(file, line, "\"messages\" is not a list of messages");
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const OrderedJson& message = messages[i];
    if (message.is_object() && message.contains("role") && message["role"].is_string()) continue;
    return LineError(file, line, fmt::format("message {} is no object with a \"role\"", i + 1));
  }
  OrderedJson variables = {{"messages", messages}};
  if (object.contains("tools")) {
    if (!object["tools"].is_array() && !object["tools"].is_null()) {
      return LineError(file, line, "\"tools\" is not a list");
    }
    variables["tools"] = object["tools"];
  }
  return variables;
}

absl::StatusOr<std::vector<int32_t>> IdsOfLine(const CalibrationFile& file,
                                               const CalibrationLine& line, int64_t vocabulary) {
  OCTAVO_ASSIGN_OR_RETURN(const OrderedJson object, ObjectOfLine(file, line));
  const OrderedJson& list = object["ids"];
  if (!list.is_array() || list.empty())
    return LineError(file, line, "\"ids\" is not a list of ids");
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const OrderedJson& id : list) {
    if (!id.is_number_integer()) {
      return LineError(file, line, fmt::format("id {} is not an integer", ids.size() + 1));
    }
    // What does not fit 64 bits with a sign is no id either.
    const bool known = id.is_number_unsigned()
                           ? id.get<uint64_t>() < static_cast<uint64_t>(vocabulary)
                           : id.get<int64_t>() >= 0 && id.get<int64_t>() < vocabulary;
    if (!known) {
      return LineError(file, line,
                       fmt::format("id {} is {}, outside the vocabulary of {}", ids.size() + 1,
                                   id.dump(), vocabulary),
                       "Give the ids of this model's tokenizer");
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

}  // namespace octavo
