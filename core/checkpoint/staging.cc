#include "core/checkpoint/staging.h"

#include <filesystem>
#include <utility>

#include "core/base/error.h"
#include "core/base/ids.h"
#include "core/base/status.h"
#include "fmt/format.h"
#include "spdlog/spdlog.h"

namespace octavo {

StagedFolder::StagedFolder(Store* store, std::string final_dir, std::string path)
    : store_(store), final_dir_(std::move(final_dir)), path_(std::move(path)) {}

StagedFolder::StagedFolder(StagedFolder&& other) noexcept
    : store_(other.store_),
      final_dir_(std::move(other.final_dir_)),
      path_(std::exchange(other.path_, {})) {}

StagedFolder::~StagedFolder() {
  if (path_.empty()) return;
  if (const absl::Status status = store_->RemoveTree(path_); !status.ok()) {
    spdlog::warn("a partial folder stays behind: {}", std::string(status.message()));
  }
}

absl::StatusOr<StagedFolder> StagedFolder::Create(Store* store, const std::string& final_dir) {
  std::string name = final_dir;
  while (name.size() > 1 && name.back() == '/') name.pop_back();
  if (name.empty()) return MakeError(Reason::kUsage, "the output has no name");
  if (store->Exists(name)) {
    return MakeError(Reason::kOutputExists, "the output exists already", {.file = name},
                     "Remove it or choose another name");
  }
  std::string path = fmt::format("{}.partial-{}", name, RandomHex(4));
  OCTAVO_RETURN_IF_ERROR(store->CreateDirectories(path));
  return StagedFolder(store, std::move(name), std::move(path));
}

absl::Status StagedFolder::Publish() {
  OCTAVO_RETURN_IF_ERROR(store_->Sync(path_));
  OCTAVO_RETURN_IF_ERROR(store_->Publish(path_, final_dir_, PublishMode::kNoReplace));
  path_.clear();
  return absl::OkStatus();
}

}  // namespace octavo
