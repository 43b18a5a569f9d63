#include "core/text/stop_strings.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo {

absl::StatusOr<StopMatcher> StopMatcher::Create(std::span<const std::string> stops) {
  if (stops.size() > static_cast<size_t>(kStopStringsMax)) {
    return MakeError(Reason::kBadRequest,
                     fmt::format("{} stop strings; at most {}", stops.size(), kStopStringsMax));
  }
  StopMatcher matcher;
  for (size_t s = 0; s < stops.size(); ++s) {
    const std::string& text = stops[s];
    if (text.empty() || text.size() > kStopStringBytesMax || !IsUtf8(text)) {
      return MakeError(
          Reason::kBadRequest,
          fmt::format("stop string {} is not 1 to {} bytes of UTF-8", s, kStopStringBytesMax));
    }
    Stop stop{text, std::vector<size_t>(text.size() + 1, 0), 0};
    for (size_t i = 1, border = 0; i < text.size(); ++i) {
      while (border > 0 && text[i] != text[border]) border = stop.fallback[border];
      if (text[i] == text[border]) ++border;
      stop.fallback[i + 1] = border;
    }
    matcher.stops_.push_back(std::move(stop));
  }
  return matcher;
}

StopMatcher::Result StopMatcher::Push(std::string_view text) {
  Result result;
  if (matched_) return result;
  if (stops_.empty()) {
    result.emit = std::string(text);
    return result;
  }
  size_t longest_prefix = 0;  // of any stop string, at the end of the input so far
  for (const char c : text) {
    held_.push_back(c);
    longest_prefix = 0;
    size_t match_size = 0;
    for (size_t s = 0; s < stops_.size(); ++s) {
      Stop& stop = stops_[s];
      while (stop.matched > 0 && stop.text[stop.matched] != c) {
        stop.matched = stop.fallback[stop.matched];
      }
      if (stop.text[stop.matched] == c) ++stop.matched;
      longest_prefix = std::max(longest_prefix, stop.matched);
      if (stop.matched == stop.text.size() && stop.text.size() > match_size) {
        match_size = stop.text.size();
        result.stop_index = static_cast<int>(s);
      }
    }
    if (match_size > 0) {
      result.emit = held_.substr(0, held_.size() - match_size);
      result.matched = matched_ = true;
      held_.clear();
      return result;
    }
  }
  if (text.empty()) return result;
  result.emit = held_.substr(0, held_.size() - longest_prefix);
  held_.erase(0, held_.size() - longest_prefix);
  return result;
}

std::string StopMatcher::Finish() {
  std::string out = std::move(held_);
  held_.clear();
  matched_ = false;
  for (Stop& stop : stops_) stop.matched = 0;
  return out;
}

}  // namespace octavo
