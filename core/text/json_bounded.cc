#include "core/text/json_bounded.h"

#include <algorithm>
#include <exception>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using Json = nlohmann::json;

// Thrown through the parser by its callback, caught in ParseBoundedJson.
class BeyondBounds : public std::exception {
 public:
  explicit BeyondBounds(std::string what) : what_(std::move(what)) {}
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  std::string what_;
};

template <typename AnyJson>
class Watcher {
 public:
  using Event = typename AnyJson::parse_event_t;
  bool operator()(int depth, Event event, const AnyJson& parsed) {
    if (depth > kJsonDepthMax) {
      throw BeyondBounds(fmt::format("nested deeper than {}", kJsonDepthMax));
    }
    switch (event) {
      case Event::object_start:
        Count();
        keys_.emplace_back();
        break;
      case Event::object_end:
        keys_.pop_back();
        break;
      case Event::key: {
        const auto& key = parsed.template get_ref<const std::string&>();
        if (!keys_.back().insert(key).second) {
          throw BeyondBounds(fmt::format("the key \"{}\" is there twice", key.substr(0, 100)));
        }
        break;
      }
      case Event::array_start:
      case Event::value:
        Count();
        break;
      case Event::array_end:
        break;
    }
    return true;
  }

 private:
  void Count() {
    if (++values_ > kJsonValuesMax) {
      throw BeyondBounds(fmt::format("more than {} values", kJsonValuesMax));
    }
  }
  size_t values_ = 0;
  std::vector<absl::flat_hash_set<std::string>> keys_;
};

// Throws AnyJson::parse_error, BeyondBounds and std::bad_alloc.
template <typename AnyJson>
AnyJson ParseWatched(std::string_view bytes) {
  Watcher<AnyJson> watcher;
  return AnyJson::parse(bytes, [&](int depth, typename AnyJson::parse_event_t event,
                                   AnyJson& parsed) { return watcher(depth, event, parsed); });
}

}  // namespace

absl::StatusOr<Json> ParseBoundedJson(std::string_view bytes, std::string_view file,
                                      size_t bytes_max) {
  if (bytes.size() > bytes_max) {
    return MakeError(Reason::kBadCheckpoint,
                     fmt::format("{} bytes, at most {} are read", bytes.size(), bytes_max),
                     {.file = file});
  }
  try {
    return ParseWatched<Json>(bytes);
  } catch (const Json::parse_error& error) {
    return MakeError(Reason::kBadCheckpoint, "not valid JSON", {.file = file, .offset = error.byte},
                     "Download the file again");
  } catch (const std::exception& error) {
    return MakeError(Reason::kBadCheckpoint, error.what(), {.file = file});
  }
}

std::optional<std::string> ParseJsonLine(std::string_view line, nlohmann::ordered_json* value) {
  try {
    *value = ParseWatched<nlohmann::ordered_json>(line);
    return std::nullopt;
  } catch (const Json::parse_error& error) {
    return fmt::format("not valid JSON at its byte {}", error.byte);
  } catch (const std::exception& error) {
    return error.what();
  }
}

const Json& MemberOrNull(const Json& object, std::string_view name) {
  static const Json null;
  if (!object.is_object()) return null;
  const auto found = object.find(name);
  return found == object.end() ? null : *found;
}

absl::Status CheckMembers(const Json& object, std::string_view what, std::string_view file,
                          std::initializer_list<std::string_view> known) {
  for (const auto& [key, value] : object.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      return MakeError(Reason::kUnsupported,
                       fmt::format("the setting \"{}\" of {} is not handled", key, what),
                       {.file = file});
    }
  }
  return absl::OkStatus();
}

}  // namespace octavo
