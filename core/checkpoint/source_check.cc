#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/safetensors.h"
#include "core/store/local_store.h"
#include "fmt/format.h"

namespace octavo {
namespace {

absl::Status Changed(const v1::SourceFile& file, const std::string& what) {
  return MakeError(Reason::kSourceChanged, what, {.file = file.name()},
                   "Restore the file, or start a new job");
}

absl::Status CheckFacts(const Store& store, const std::string& dir, const v1::SourceFile& file) {
  OCTAVO_ASSIGN_OR_RETURN(const FileFacts facts, store.Stat(JoinPath(dir, file.name())));
  if (facts.size != file.size()) {
    return Changed(file, fmt::format("source is {} bytes long, was {}", facts.size, file.size()));
  }
  if (file.mtime_ns() != 0 && facts.mtime_ns != file.mtime_ns()) {
    return Changed(file, "source was modified");
  }
  return absl::OkStatus();
}

v1::Digest ToMessage(const Digest128& digest) {
  v1::Digest message;
  message.set_low(digest.low);
  message.set_high(digest.high);
  return message;
}

}  // namespace

absl::Status CheckUnchangedQuickly(const Store& store, const std::string& dir,
                                   std::span<const v1::SourceFile> files) {
  for (const v1::SourceFile& file : files) {
    OCTAVO_RETURN_IF_ERROR(CheckFacts(store, dir, file));
  }
  return absl::OkStatus();
}

absl::Status CheckUnchanged(const Store& store, const std::string& dir,
                            std::span<const v1::SourceFile> files) {
  for (const v1::SourceFile& file : files) {
    OCTAVO_RETURN_IF_ERROR(CheckFacts(store, dir, file));
    Digest128 digest;
    if (file.name().ends_with(".safetensors")) {
      absl::StatusOr<SafetensorsFile> now = ReadSafetensors(store, dir, file.name());
      if (!now.ok() && ReasonOf(now.status()) == Reason::kBadCheckpoint) {
        return Changed(file, "source's header is no longer valid");
      }
      OCTAVO_RETURN_IF_ERROR(now.status());
      digest = now->header_digest;
    } else {
      OCTAVO_ASSIGN_OR_RETURN(const v1::SourceFile now, IdentifySideFile(store, dir, file.name()));
      digest = {now.header_digest().low(), now.header_digest().high()};
    }
    if (digest != Digest128{file.header_digest().low(), file.header_digest().high()}) {
      return Changed(file, "source's header or content changed");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckUnchanged(const std::string& dir, std::span<const v1::SourceFile> files) {
  return CheckUnchanged(LocalStore(), dir, files);
}

absl::StatusOr<v1::SourceFile> IdentifySideFile(const Store& store, const std::string& dir,
                                                const std::string& name) {
  const std::string path = JoinPath(dir, name);
  OCTAVO_ASSIGN_OR_RETURN(const FileFacts facts, store.Stat(path));
  OCTAVO_ASSIGN_OR_RETURN(const std::string bytes, ReadWhole(store, path, kSideFileMax));
  v1::SourceFile file;
  file.set_name(name);
  file.set_size(bytes.size());
  file.set_mtime_ns(facts.mtime_ns);
  *file.mutable_header_digest() = ToMessage(DigestOf(bytes));
  return file;
}

}  // namespace octavo
