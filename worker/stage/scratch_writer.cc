#include "worker/stage/scratch_writer.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "core/base/error.h"
#include "core/base/ids.h"
#include "core/base/status.h"
#include "core/store/store.h"
#include "fmt/format.h"

namespace octavo {

absl::StatusOr<ScratchWriter> ScratchWriter::Create(const std::string& dir, const std::string& name,
                                                    uint64_t size) {
  ScratchWriter writer;
  writer.name_ = name;
  writer.path_ = JoinPath(dir, name);
  writer.size_ = size;
  const std::string staged = fmt::format("{}.{}", writer.path_, RandomHex(4));
  OCTAVO_RETURN_IF_ERROR(writer.store_.CreateFile(staged, size, false));
  writer.staged_ = staged;
  return writer;
}

ScratchWriter::ScratchWriter(ScratchWriter&& other) noexcept
    : name_(std::move(other.name_)),
      path_(std::move(other.path_)),
      staged_(std::exchange(other.staged_, {})),
      size_(other.size_),
      at_(other.at_),
      digest_(std::move(other.digest_)) {}

ScratchWriter::~ScratchWriter() {
  if (!staged_.empty()) store_.RemoveTree(staged_).IgnoreError();
}

absl::Status ScratchWriter::Append(std::span<const std::byte> bytes) {
  OCTAVO_RETURN_IF_ERROR(store_.WriteAt(staged_, at_, bytes));
  digest_.Add(bytes);
  at_ += bytes.size();
  return absl::OkStatus();
}

absl::Status ScratchWriter::Finish(v1::Receipt* receipt) {
  OCTAVO_CHECK(at_ == size_);
  std::error_code error;
  std::filesystem::rename(staged_, path_, error);
  if (error) return ErrnoError("cannot rename", error.value(), {.file = path_});
  staged_.clear();
  v1::ScratchFile* file = receipt->add_scratch();
  file->set_name(name_);
  file->set_size(size_);
  const Digest128 digest = digest_.Finish();
  file->mutable_digest()->set_low(digest.low);
  file->mutable_digest()->set_high(digest.high);
  receipt->set_bytes_written(receipt->bytes_written() + size_);
  return absl::OkStatus();
}

absl::Status LeaveScratchFile(const std::string& dir, const std::string& name,
                              std::span<const std::byte> bytes, v1::Receipt* receipt) {
  OCTAVO_ASSIGN_OR_RETURN(ScratchWriter writer, ScratchWriter::Create(dir, name, bytes.size()));
  OCTAVO_RETURN_IF_ERROR(writer.Append(bytes));
  return writer.Finish(receipt);
}

}  // namespace octavo
