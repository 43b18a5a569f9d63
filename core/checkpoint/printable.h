#pragma once

// Names from untrusted files, for messages: at most 160 bytes, anything but printable ASCII becomes
// '?'.

#include <string>
#include <string_view>

namespace octavo {

inline std::string Printable(std::string_view text) {
  std::string out(text.substr(0, 160));
  for (char& c : out) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return out;
}

}  // namespace octavo
