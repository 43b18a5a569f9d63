#include "cli/folder_check.h"

#include <algorithm>
#include <vector>

#include "coordinator/planner/publish.h"
#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/store/local_store.h"
#include "fmt/format.h"
#include "google/protobuf/util/json_util.h"
#include "octavo/v1/artifact.pb.h"

namespace octavo {
namespace {

constexpr uint64_t kReadBytes = 4u << 20;

absl::Status CheckRange(const LocalStore& store, const std::string& path,
                        const v1::ManifestRange& range, std::vector<std::byte>& buffer) {
  DigestStream digest;
  for (uint64_t at = range.begin(); at < range.end();) {
    const uint64_t count = std::min(kReadBytes, range.end() - at);
    const std::span<std::byte> part = std::span(buffer).first(count);
    OCTAVO_RETURN_IF_ERROR(store.ReadAt(path, at, part));
    digest.Add(part);
    at += count;
  }
  const Digest128 found = digest.Finish();
  const Digest128 wanted{range.digest().low(), range.digest().high()};
  if (found == wanted) return absl::OkStatus();
  return MakeError(
      Reason::kCorrupted,
      fmt::format("bytes up to {} have digest {}, not {}", range.end(), found.Hex(), wanted.Hex()),
      {.file = path, .offset = range.begin()}, "Quantize again");
}

}  // namespace

absl::StatusOr<FolderCheck> CheckFolder(const std::string& dir, bool digests) {
  const LocalStore store;
  FolderCheck check;
  const std::string manifest_path = JoinPath(dir, kManifestName);
  if (!store.Exists(manifest_path)) return check;
  OCTAVO_ASSIGN_OR_RETURN(const std::string text, ReadWhole(store, manifest_path, kSideFileMax));
  v1::Manifest manifest;
  if (!google::protobuf::util::JsonStringToMessage(text, &manifest).ok()) {
    return MakeError(Reason::kBadCheckpoint, "not a manifest", {.file = manifest_path});
  }
  check.manifest = true;
  std::vector<std::byte> buffer(kReadBytes);
  for (const v1::ManifestFile& file : manifest.files()) {
    if (!IsPlainFileName(file.name())) {
      return MakeError(Reason::kBadCheckpoint, fmt::format("'{}' is not a file name", file.name()),
                       {.file = manifest_path});
    }
    const std::string path = JoinPath(dir, file.name());
    OCTAVO_ASSIGN_OR_RETURN(const FileFacts facts, store.Stat(path));
    if (facts.size != file.size()) {
      return MakeError(Reason::kCorrupted,
                       fmt::format("{} bytes, not {} as in the manifest", facts.size, file.size()),
                       {.file = path}, "Quantize again");
    }
    for (const v1::ManifestRange& range : file.ranges()) {
      if (digests) OCTAVO_RETURN_IF_ERROR(CheckRange(store, path, range, buffer));
    }
    check.files += 1;
    check.bytes += file.size();
  }
  return check;
}

}  // namespace octavo
