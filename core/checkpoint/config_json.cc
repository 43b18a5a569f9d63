#include "core/checkpoint/config_json.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/checkpoint/printable.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// The tree that keeps order looks keys up linearly: this bounds the square.
constexpr size_t kKeysMax = 20'000;

// A first pass without a tree: syntax, depth, duplicate keys.
class Checker {
 public:
  bool null() { return true; }
  bool boolean(bool) { return true; }
  bool number_integer(int64_t) { return true; }
  bool number_unsigned(uint64_t) { return true; }
  bool number_float(double, const std::string&) { return true; }
  bool string(std::string&) { return true; }
  bool binary(nlohmann::json::binary_t&) { return Fail("binary data"); }
  bool start_object(size_t) { return Enter(); }
  bool end_object() { return Leave(); }
  bool start_array(size_t) { return Enter(); }
  bool end_array() { return Leave(); }
  bool key(std::string& name) {
    auto& keys = keys_.back();
    if (keys.size() >= kKeysMax) return Fail(fmt::format("more than {} keys", kKeysMax));
    if (!keys.insert(name).second) {
      return Fail(fmt::format("key \"{}\" appears twice", Printable(name)));
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
  absl::Status Error(std::string_view file) const {
    return MakeError(Reason::kBadCheckpoint, failure_.empty() ? "invalid JSON" : failure_,
                     {file, {}, offset_}, "Restore the file from its source");
  }

 private:
  bool Enter() {
    if (keys_.size() >= size_t{kJsonDepthMax}) return Fail("JSON is nested too deeply");
    keys_.emplace_back();
    return true;
  }
  bool Leave() {
    keys_.pop_back();
    return true;
  }
  bool Fail(std::string what) {
    failure_ = std::move(what);
    return false;
  }
  std::vector<absl::flat_hash_set<std::string>> keys_;
  std::string failure_;
  std::optional<uint64_t> offset_;
};

}  // namespace

std::string JsonErrorText(std::string_view what) {
  if (const size_t at = what.find("] "); what.starts_with("[json") && at != what.npos) {
    what.remove_prefix(at + 2);
  }
  return Printable(what);
}

absl::Status CheckJsonText(std::string_view text, std::string_view file_name, uint64_t offset) {
  const size_t start = text.find_first_not_of(" \t\r\n");
  if (start == std::string_view::npos || text[start] != '{') {
    return MakeError(Reason::kBadCheckpoint, "not a JSON object", {file_name, {}, offset},
                     "Restore the file from its source");
  }
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return MakeError(Reason::kBadCheckpoint, "NUL byte in JSON", {file_name, {}, offset + nul},
                     "Restore the file from its source");
  }
  return absl::OkStatus();
}

absl::StatusOr<nlohmann::ordered_json> ParseJsonObject(std::string_view text,
                                                       std::string_view file_name) {
  OCTAVO_RETURN_IF_ERROR(CheckJsonText(text, file_name, 0));
  Checker checker;
  if (!nlohmann::ordered_json::sax_parse(text.begin(), text.end(), &checker)) {
    return checker.Error(file_name);
  }
  return nlohmann::ordered_json::parse(text.begin(), text.end(), nullptr,
                                       /*allow_exceptions=*/false);
}

std::string JsonText(const nlohmann::ordered_json& json) { return json.dump(2) + "\n"; }

}  // namespace octavo
