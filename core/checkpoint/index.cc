#include "core/checkpoint/index.h"

#include <optional>
#include <utility>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/checkpoint/config_json.h"
#include "core/checkpoint/printable.h"
#include "core/store/store.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// Events of the SAX parser. Depth 1: the root's keys; depth 2 inside weight_map or metadata; the
// rest is skipped.
class IndexHandler {
 public:
  explicit IndexHandler(std::string_view file) : file_(file) {}

  bool null() { return Scalar("null"); }
  bool boolean(bool) { return Scalar("a boolean"); }
  bool number_integer(int64_t) { return Scalar("a number"); }
  bool number_unsigned(uint64_t value) {
    if (section_ == Section::kMetadata && depth_ == 2 && total_size_next_)
      index_.total_size = value;
    return Scalar("a number");
  }
  // Some writers spell total_size as 1.5e10; it is informational.
  bool number_float(double, const std::string&) { return Scalar("a number"); }
  bool binary(nlohmann::json::binary_t&) { return Fail("binary data"); }
  bool string(std::string& value) {
    if (section_ != Section::kWeights || depth_ != 2) return Scalar("a string");
    if (!IsPlainFileName(value)) {
      return Fail(fmt::format("\"{}\" is no plain file name", Printable(value)));
    }
    if (!value.ends_with(".safetensors")) {
      return Fail(fmt::format("\"{}\" is no safetensors file", Printable(value)));
    }
    if (!index_.weight_map.emplace(tensor_, std::move(value)).second) {
      return Fail("tensor appears twice");
    }
    return true;
  }
  bool start_object(size_t) {
    if (depth_ == 1 && section_ == Section::kWeights) seen_weights_ = true;
    return Enter("an object");
  }
  bool end_object() { return Leave(); }
  bool start_array(size_t) {
    if (depth_ == 1 && section_ == Section::kWeights) return Fail("weight_map is no object");
    return Enter("an array");
  }
  bool end_array() { return Leave(); }
  bool key(std::string& name) {
    if (depth_ == 1) {
      section_ = name == "weight_map" ? Section::kWeights
                 : name == "metadata" ? Section::kMetadata
                                      : Section::kOther;
      if (section_ != Section::kOther &&
          std::exchange(seen_section_[static_cast<int>(section_)], true)) {
        return Fail(fmt::format("{} appears twice", name));
      }
    } else if (depth_ == 2) {
      if (section_ == Section::kWeights) tensor_ = name;
      total_size_next_ = name == "total_size";
    }
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) {
    if (failure_.empty()) {
      failure_ = fmt::format("invalid JSON ({})", JsonErrorText(error.what()));
      offset_ = position > 0 ? position - 1 : 0;
    }
    return false;
  }

  absl::Status Error() const {
    return MakeError(Reason::kBadCheckpoint, failure_.empty() ? "invalid JSON" : failure_,
                     {file_, tensor_, offset_}, "Restore the index from its source");
  }
  bool HasWeights() const { return seen_weights_ && !index_.weight_map.empty(); }
  TensorIndex Take() { return std::move(index_); }

 private:
  enum class Section { kWeights = 0, kMetadata = 1, kOther = 2 };

  bool Scalar(std::string_view what) {
    if (section_ != Section::kWeights) return true;
    return Fail(depth_ == 1 ? "weight_map is no object"
                            : fmt::format("found {} where a file name must be", what));
  }
  bool Enter(std::string_view what) {
    if (depth_ >= 2 && section_ == Section::kWeights) {
      return Fail(fmt::format("found {} where a file name must be", what));
    }
    if (depth_ >= kJsonDepthMax) return Fail("JSON is nested too deeply");
    ++depth_;
    return true;
  }
  bool Leave() {
    if (--depth_ == 1) section_ = Section::kOther;
    return true;
  }
  bool Fail(std::string what) {
    failure_ = std::move(what);
    return false;
  }

  std::string_view file_;
  TensorIndex index_;
  int depth_ = 0;
  Section section_ = Section::kOther;
  bool seen_section_[2] = {};
  bool seen_weights_ = false;
  bool total_size_next_ = false;
  std::string tensor_;
  std::string failure_;
  std::optional<uint64_t> offset_;
};

}  // namespace

absl::StatusOr<TensorIndex> ParseIndex(std::string_view text, std::string_view file_name) {
  OCTAVO_RETURN_IF_ERROR(CheckJsonText(text, file_name, 0));
  IndexHandler handler(file_name);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &handler)) return handler.Error();
  if (!handler.HasWeights()) {
    return MakeError(Reason::kBadCheckpoint, "no weight_map, or an empty one", {.file = file_name},
                     "Restore the index from its source");
  }
  return handler.Take();
}

std::string BuildIndex(const TensorIndex& index) {
  nlohmann::ordered_json json;
  json["metadata"]["total_size"] = index.total_size;
  std::string text = json.dump(2);
  text.resize(text.size() - 2);  // the closing brace and its line end: weight_map follows
  text += ",\n  \"weight_map\": {";
  std::string_view separator = "\n";
  for (const auto& [tensor, file] : index.weight_map) {
    text += fmt::format("{}    {}: {}", separator, nlohmann::json(tensor).dump(),
                        nlohmann::json(file).dump());
    separator = ",\n";
  }
  text += index.weight_map.empty() ? "}\n}\n" : "\n  }\n}\n";
  return text;
}

std::string ShardName(int number, int count) {
  if (count == 1) return std::string(kSingleFileName);
  return fmt::format("model-{:05d}-of-{:05d}.safetensors", number, count);
}

}  // namespace octavo
