#include "coordinator/planner/publish.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <map>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/fault.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/store/local_store.h"
#include "fmt/format.h"
#include "google/protobuf/util/json_util.h"
#include "google/protobuf/util/message_differencer.h"

namespace octavo {
namespace {

namespace fs = std::filesystem;
using google::protobuf::util::MessageDifferencer;

constexpr uint64_t kManifestBytesMax = 256u << 20;

bool IsInside(const fs::path& inner, const fs::path& outer) {
  auto i = inner.begin();
  for (const fs::path& part : outer) {
    if (part.empty()) continue;  // a trailing slash
    if (i == inner.end() || *i != part) return false;
    ++i;
  }
  return true;
}

// Links resolved as far as the path exists.
absl::StatusOr<fs::path> Canonical(const std::string& path) {
  std::error_code error;
  fs::path absolute = fs::absolute(path, error);
  if (!error) absolute = fs::weakly_canonical(absolute, error);
  if (error) return ErrnoError("cannot resolve the path", error.value(), {.file = path});
  if (!absolute.has_filename()) absolute = absolute.parent_path();
  return absolute;
}

bool IsMountPoint(const fs::path& path) {
  struct statx facts = {};
  if (statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &facts) != 0) {
    return false;
  }
  return (facts.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

absl::Status CheckParentWritable(const fs::path& output) {
  fs::path parent = output.parent_path();
  std::error_code error;
  while (!fs::exists(parent, error) && parent.has_relative_path()) parent = parent.parent_path();
  if (!fs::is_directory(parent, error)) {
    return MakeError(Reason::kOutputUnwritable, "a file is where a folder must be",
                     {.file = parent.native()}, "Choose another output");
  }
  if (access(parent.c_str(), W_OK | X_OK) != 0) {
    return MakeError(Reason::kOutputUnwritable, "no permission to write into the folder",
                     {.file = parent.native()}, "Change its permissions or choose another output");
  }
  return absl::OkStatus();
}

std::string ManifestText(const v1::Manifest& manifest) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(manifest, &text, options);
  OCTAVO_CHECK(status.ok());
  return text;
}

OutputLook Different(std::string found) { return {OutputState::kDifferent, std::move(found)}; }

// Why a manifest is not this plan's; empty when it is.
std::string Difference(const v1::Manifest& manifest, const v1::Plan& plan) {
  if (manifest.measured() != plan.measures()) {
    return plan.measures() ? "a checkpoint, no measurements" : "measurements, no checkpoint";
  }
  if (!MessageDifferencer::Equals(manifest.recipe(), plan.recipe())) {
    return manifest.recipe().name() == plan.recipe().name()
               ? fmt::format("made with another recipe of the name {}", plan.recipe().name())
               : fmt::format("made with recipe {}", manifest.recipe().name());
  }
  if (manifest.has_calibration() != plan.has_calibration() ||
      (plan.has_calibration() &&
       !MessageDifferencer::Equals(manifest.calibration(),
                                   CalibrationDigest(plan.calibration())))) {
    return "made with another calibration";
  }
  const bool same_sources =
      manifest.sources_size() == plan.sources_size() &&
      std::equal(manifest.sources().begin(), manifest.sources().end(), plan.sources().begin(),
                 [](const auto& a, const auto& b) { return MessageDifferencer::Equals(a, b); });
  if (!same_sources) return "made from another source";
  std::map<std::string_view, const v1::ManifestFile*> files;
  for (const v1::ManifestFile& file : manifest.files()) files[file.name()] = &file;
  for (const v1::OutputFile& output : plan.outputs()) {
    const auto found = files.find(output.name());
    if (found == files.end() || found->second->size() != output.size()) {
      return fmt::format("made by another version: {} differs", output.name());
    }
  }
  for (const v1::SourceFile& side : plan.side_files()) {
    const auto found = files.find(side.name());
    if (found == files.end() || found->second->ranges_size() != 1 ||
        !MessageDifferencer::Equals(found->second->ranges(0).digest(), side.header_digest())) {
      return fmt::format("made from another source: {} differs", side.name());
    }
  }
  return "";
}

absl::Status CopySideFile(LocalStore& store, const v1::Job& job, const v1::SourceFile& side) {
  const std::string from = JoinPath(job.request().source_dir(), side.name());
  OCTAVO_ASSIGN_OR_RETURN(const std::string bytes, ReadWhole(store, from, kSideFileMax));
  const Digest128 digest = DigestOf(bytes);
  if (digest.low != side.header_digest().low() || digest.high != side.header_digest().high()) {
    return MakeError(Reason::kSourceChanged, "the file changed after the job was planned",
                     {.file = from}, "Start the job again");
  }
  return WriteWhole(store, JoinPath(job.staging_dir(), side.name()), bytes);
}

}  // namespace

absl::Status CheckPlaces(const std::string& source_dir, const std::string& output_dir) {
  OCTAVO_ASSIGN_OR_RETURN(const fs::path source, Canonical(source_dir));
  OCTAVO_ASSIGN_OR_RETURN(const fs::path output, Canonical(output_dir));
  auto refuse = [&](std::string_view what) {
    return MakeError(Reason::kOutputUnwritable, what, {.file = output.native()},
                     "Choose an output beside the source");
  };
  if (output == source) return refuse("the output is the source");
  if (IsInside(output, source)) return refuse("the output lies inside the source");
  if (IsInside(source, output)) return refuse("the source lies inside the output");
  if (IsMountPoint(output)) {
    return MakeError(Reason::kOutputUnwritable,
                     "the output is a mount point, which cannot appear in one rename",
                     {.file = output.native()}, "Name a folder inside it");
  }
  return CheckParentWritable(output);
}

absl::StatusOr<OutputLook> LookAtOutput(const std::string& output_dir, const v1::Plan& plan) {
  const LocalStore store;
  std::error_code error;
  const fs::file_status status = fs::symlink_status(output_dir, error);
  if (status.type() == fs::file_type::not_found) return OutputLook{};
  if (!fs::is_directory(output_dir, error)) return Different("not a folder");
  const std::string path = JoinPath(output_dir, kManifestName);
  if (!store.Exists(path)) {
    return Different(fs::is_empty(output_dir, error) ? "an empty folder"
                                                     : "a folder that Octavo did not make");
  }
  OCTAVO_ASSIGN_OR_RETURN(const std::string text, ReadWhole(store, path, kManifestBytesMax));
  v1::Manifest manifest;
  if (!google::protobuf::util::JsonStringToMessage(text, &manifest).ok()) {
    return Different(fmt::format("damaged: {} cannot be read", kManifestName));
  }
  if (std::string found = Difference(manifest, plan); !found.empty()) return Different(found);
  for (const v1::ManifestFile& file : manifest.files()) {
    const auto facts = store.Stat(JoinPath(output_dir, file.name()));
    if (!facts.ok()) return Different(fmt::format("damaged: {} is missing", file.name()));
    if (facts->size != file.size()) {
      return Different(fmt::format("damaged: {} has {} bytes where {} were written", file.name(),
                                   facts->size, file.size()));
    }
  }
  return OutputLook{OutputState::kSame, ""};
}

absl::Status StageFolder(const v1::Job& job, const v1::Plan& plan) {
  LocalStore store;
  OCTAVO_RETURN_IF_ERROR(store.CreateDirectories(job.staging_dir()));
  uint64_t missing = 0;
  for (const v1::OutputFile& output : plan.outputs()) {
    const auto facts = store.Stat(JoinPath(job.staging_dir(), output.name()));
    if (!facts.ok() || facts->size != output.size()) missing += output.size();
  }
  OCTAVO_ASSIGN_OR_RETURN(const uint64_t free, store.FreeBytes(job.staging_dir()));
  if (missing > free) {
    return MakeError(Reason::kDiskFull,
                     fmt::format("the output needs {} bytes, {} are free", missing, free),
                     {.file = job.staging_dir()}, "Free space and run the same command again");
  }
  for (const v1::OutputFile& output : plan.outputs()) {
    const std::string path = JoinPath(job.staging_dir(), output.name());
    OCTAVO_RETURN_IF_ERROR(store.CreateFile(path, output.size(), /*keep_existing=*/true));
    OCTAVO_RETURN_IF_ERROR(
        store.WriteAt(path, 0, std::as_bytes(std::span<const char>(output.head()))));
  }
  for (const v1::SourceFile& side : plan.side_files()) {
    OCTAVO_RETURN_IF_ERROR(CopySideFile(store, job, side));
  }
  return absl::OkStatus();
}

absl::Status FinishFolder(const v1::Job& job, const v1::Plan& plan,
                          std::span<const v1::Receipt> receipts) {
  LocalStore store;
  const std::string& dir = job.staging_dir();
  OCTAVO_ASSIGN_OR_RETURN(const FolderTexts texts, MakeFolderTexts(plan, receipts));
  const v1::Manifest& manifest = texts.manifest;
  for (const auto& [name, text] : texts.files) {
    OCTAVO_RETURN_IF_ERROR(WriteWhole(store, JoinPath(dir, name), text));
  }
  OCTAVO_RETURN_IF_ERROR(WriteWhole(store, JoinPath(dir, kManifestName), ManifestText(manifest)));
  for (const v1::ManifestFile& file : manifest.files()) {
    const std::string path = JoinPath(dir, file.name());
    OCTAVO_ASSIGN_OR_RETURN(const FileFacts facts, store.Stat(path));
    if (facts.size != file.size()) {
      return MakeError(
          Reason::kCorrupted,
          fmt::format("the file has {} bytes where {} were written", facts.size, file.size()),
          {.file = path}, "Run the job again");
    }
    OCTAVO_RETURN_IF_ERROR(store.Sync(path));
  }
  OCTAVO_RETURN_IF_ERROR(store.Sync(JoinPath(dir, kManifestName)));
  return store.Sync(dir);
}

absl::Status PublishFolder(const std::string& staging_dir, const std::string& output_dir,
                           bool overwrite) {
  LocalStore store;
  FaultPoint("mid-publish");
  OCTAVO_RETURN_IF_ERROR(store.Publish(
      staging_dir, output_dir, overwrite ? PublishMode::kExchange : PublishMode::kNoReplace));
  FaultPoint("after-publish");
  return absl::OkStatus();
}

absl::Status RemoveFolder(const std::string& dir) {
  LocalStore store;
  return store.RemoveTree(dir);
}

}  // namespace octavo
