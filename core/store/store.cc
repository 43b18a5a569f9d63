#include "core/store/store.h"

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {

absl::StatusOr<std::string> ReadWhole(const Store& store, const std::string& path,
                                      uint64_t bytes_max) {
  OCTAVO_ASSIGN_OR_RETURN(const FileFacts facts, store.Stat(path));
  if (facts.size > bytes_max) {
    return MakeError(Reason::kBadCheckpoint,
                     fmt::format("file of {} bytes is larger than the {} allowed for its kind",
                                 facts.size, bytes_max),
                     {.file = path});
  }
  std::string bytes(facts.size, '\0');
  OCTAVO_RETURN_IF_ERROR(store.ReadAt(path, 0, std::as_writable_bytes(std::span(bytes))));
  return bytes;
}

absl::Status WriteWhole(Store& store, const std::string& path, std::string_view bytes) {
  OCTAVO_RETURN_IF_ERROR(store.CreateFile(path, bytes.size(), /*keep_existing=*/false));
  return store.WriteAt(path, 0, std::as_bytes(std::span(bytes)));
}

std::string JoinPath(std::string_view dir, std::string_view name) {
  if (dir.empty()) return std::string(name);
  return fmt::format("{}{}{}", dir, dir.back() == '/' ? "" : "/", name);
}

bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

}  // namespace octavo
