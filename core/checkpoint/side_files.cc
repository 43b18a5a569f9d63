#include "core/checkpoint/side_files.h"

#include <algorithm>
#include <array>

namespace octavo {

bool IsSideFile(std::string_view name) {
  constexpr std::array<std::string_view, 6> kEndings = {".json",  ".jinja",    ".txt",
                                                        ".model", ".tiktoken", ".py"};
  if (name.empty() || name[0] == '.' || name == "config.json" || name == "octavo_manifest.json" ||
      name == "octavo_report.json" || name.ends_with(".index.json")) {
    return false;
  }
  const bool legal = name.starts_with("LICENSE") || name.starts_with("LICENCE") ||
                     name.starts_with("NOTICE") || name.starts_with("USE_POLICY");
  return legal || std::any_of(kEndings.begin(), kEndings.end(),
                              [&](std::string_view ending) { return name.ends_with(ending); });
}

std::vector<std::string> SideFilesOf(std::span<const DirEntry> entries) {
  std::vector<std::string> names;
  for (const DirEntry& entry : entries) {
    if (entry.regular && IsSideFile(entry.name)) names.push_back(entry.name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace octavo
