#include "core/checkpoint/safetensors_json.h"

#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/checkpoint/config_json.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

constexpr size_t kAxesMax = 64;
constexpr uint64_t kLengthField = 8;

// Receives the events of nlohmann's SAX parser. Depth 1 is the root, 2 a tensor or the metadata; 3
// an array of a tensor; anything else lies inside a key we do not know.
class HeaderHandler {
 public:
  HeaderHandler(std::string_view json, std::string_view file) : json_(json), file_(file) {}

  bool null() { return Scalar("null"); }
  bool boolean(bool) { return Scalar("a boolean"); }
  bool number_integer(int64_t) { return Scalar("a negative number"); }
  bool number_float(double, const std::string&) { return Scalar("a number that is no integer"); }
  bool binary(nlohmann::json::binary_t&) { return Fail("binary data"); }

  bool number_unsigned(uint64_t value) {
    if (field_ == Field::kShape && depth_ == 3) {
      if (entry().shape.size() >= kAxesMax) return Fail("more than 64 axes");
      entry().shape.push_back(value);
      return true;
    }
    if (field_ == Field::kOffsets && depth_ == 3) {
      if (offsets_seen_ >= 2) return Fail("data_offsets has more than two numbers");
      (offsets_seen_++ == 0 ? entry().begin : entry().end) = value;
      return true;
    }
    return Scalar("a number");
  }

  bool string(std::string& value) {
    if (metadata_) return depth_ == 2 ? true : Fail("__metadata__ is not flat");
    if (field_ == Field::kDType && depth_ == 2) {
      entry().dtype = value;
      return true;
    }
    return Scalar("a string");
  }

  bool start_object(size_t) { return depth_ <= 1 ? Enter() : Unknown("an object"); }

  bool end_object() {
    --depth_;
    if (depth_ != 1) return true;
    if (metadata_) {
      metadata_ = false;
      return true;
    }
    if (!seen_[0] || !seen_[1] || !seen_[2]) {
      return Fail("dtype, shape or data_offsets is missing");
    }
    return true;
  }

  bool start_array(size_t) {
    if (depth_ == 0) return Fail("the header is no JSON object");
    if (depth_ == 1) return Fail("value is no object");
    const bool known = depth_ == 2 && (field_ == Field::kShape || field_ == Field::kOffsets);
    if (known) return Enter();
    return Unknown("an array");
  }

  bool end_array() {
    --depth_;
    if (depth_ == 2 && field_ == Field::kOffsets && offsets_seen_ != 2) {
      return Fail("data_offsets has fewer than two numbers");
    }
    return true;
  }

  bool key(std::string& name) {
    if (depth_ == 1) {
      if (name == "__metadata__") {
        metadata_ = true;
        metadata_offset_ = kLengthField + Position(name);
        if (std::exchange(metadata_seen_, true)) return Fail("__metadata__ appears twice");
        return true;
      }
      entries_.emplace_back();
      entry().name = std::move(name);
      entry().json_offset = kLengthField + Position(entry().name);
      seen_[0] = seen_[1] = seen_[2] = false;
      offsets_seen_ = 0;
      field_ = Field::kUnknown;
      return true;
    }
    if (depth_ != 2) return true;
    if (metadata_) {
      return metadata_keys_.insert(name).second ? true
                                                : Fail("a key of __metadata__ appears twice");
    }
    field_ = name == "dtype"          ? Field::kDType
             : name == "shape"        ? Field::kShape
             : name == "data_offsets" ? Field::kOffsets
                                      : Field::kUnknown;
    if (field_ != Field::kUnknown && std::exchange(seen_[static_cast<int>(field_)], true)) {
      return Fail(fmt::format("{} appears twice", name));
    }
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) {
    if (!failure_) {
      failure_ = fmt::format("invalid JSON ({})", JsonErrorText(error.what()));
      offset_ = kLengthField + (position > 0 ? position - 1 : 0);
    }
    return false;
  }

  std::vector<HeaderEntry> Take() { return std::move(entries_); }

  absl::Status Error() const {
    return MakeError(Reason::kBadCheckpoint, failure_.value_or("invalid JSON"),
                     {file_, in_tensor() ? std::string_view(entries_.back().name) : "", offset_},
                     "Download the file again");
  }

 private:
  enum class Field { kDType = 0, kShape = 1, kOffsets = 2, kUnknown = 3 };

  HeaderEntry& entry() { return entries_.back(); }
  bool in_tensor() const { return !entries_.empty() && depth_ >= 1 && !metadata_; }

  bool Enter() {
    ++depth_;
    return true;
  }
  bool Unknown(std::string_view what) {
    if (metadata_) return Fail("__metadata__ holds something that is no string");
    if (field_ != Field::kUnknown) return Fail(fmt::format("found {} in the wrong place", what));
    if (depth_ >= kJsonDepthMax) return Fail("JSON is nested too deeply");
    return Enter();
  }
  bool Scalar(std::string_view what) {
    if (depth_ == 0) return Fail("the header is no JSON object");
    if (depth_ == 1) return Fail(fmt::format("value is {}, not an object", what));
    if (metadata_) return Fail("__metadata__ holds something that is no string");
    if (field_ == Field::kUnknown) return true;
    return Fail(fmt::format("found {} in the wrong place", what));
  }
  bool Fail(std::string what) {
    failure_ = std::move(what);
    offset_ = metadata_     ? metadata_offset_
              : in_tensor() ? entries_.back().json_offset
                            : kLengthField;
    return false;
  }
  // The parser does not tell where it is: names are searched from the last one on. Escaped names
  // are not found; the last known offset stands for them.
  uint64_t Position(std::string_view name) {
    if (lost_) return cursor_;
    const size_t at = json_.find(name, cursor_);
    lost_ =
        at == std::string_view::npos;  // or a header of escaped names would cost a quadratic search
    if (!lost_) cursor_ = at;
    return cursor_;
  }

  std::string_view json_;
  std::string_view file_;
  std::vector<HeaderEntry> entries_;
  int depth_ = 0;
  bool metadata_ = false;
  bool metadata_seen_ = false;
  uint64_t metadata_offset_ = 0;
  absl::flat_hash_set<std::string> metadata_keys_;
  Field field_ = Field::kUnknown;
  bool seen_[3] = {};
  int offsets_seen_ = 0;
  size_t cursor_ = 0;
  bool lost_ = false;
  std::optional<std::string> failure_;
  std::optional<uint64_t> offset_;
};

}  // namespace

absl::StatusOr<std::vector<HeaderEntry>> ParseHeaderJson(std::string_view json,
                                                         std::string_view file_name) {
  OCTAVO_RETURN_IF_ERROR(CheckJsonText(json, file_name, kLengthField));
  HeaderHandler handler(json, file_name);
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &handler)) return handler.Error();
  return handler.Take();
}

}  // namespace octavo
