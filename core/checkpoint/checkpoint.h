#pragma once

// A Hugging Face checkpoint folder: what it holds and where. Only headers, config and index are
// read, never weights. Folders of the hub's layout and of the hub's cache (symbolic links into
// blobs) both work.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/store/store.h"
#include "nlohmann/json.hpp"
#include "octavo/v1/model.pb.h"
#include "octavo/v1/types.pb.h"

namespace octavo {

struct Checkpoint {
  std::string dir;
  v1::ModelSpec model;
  // Weights with their meaning, in model order: embedding, layers ascending with the family's order
  // inside, final norm, head, then IGNORED ones by name. Every tensor the family needs is there,
  // with the right shape. In a quantized folder the scales (IsScaleName) are among the IGNORED
  // ones, with the layer and expert of their module. A 2:4 matrix that is stored as kept codes and
  // a bitmask is one tensor, as if it lay there in full (bitmask_storage.h).
  std::vector<v1::ModelTensor> tensors;
  bool quantized = false;  // config.json has a quantization_config
  // The tensor files, sorted by name, mtime and header digest set.
  std::vector<v1::SourceFile> files;
  std::vector<std::string> side_files;  // carried over; sorted
  nlohmann::ordered_json config;        // config.json as a tree, all keys in their order
};

// True for the name of a tensor that scales another one or the KV cache: "….weight_scale",
// "…_weight_scale" and "…_input_scale" of a stack,
// "….weight_scale_inv", "….input_scale", "….output_scale", "….k_scale", "….v_scale", "….kv_scale",
// "….q_scale", and zero points.
bool IsScaleName(std::string_view name);

// What the caller can use. A quantizer needs a plain source; a server takes both.
enum class Accept {
  kPlainOrQuantized,
  kPlainOnly,  // a quantized folder is kUnsupported with a hint; so are weights that are not F32,
               // F16 or BF16
};

// Errors: kInputMissing (no folder, no config.json, no weights), kBadCheckpoint (malformed file; a
// tensor missing, unexpected, twice or of the wrong shape; index and files that disagree),
// kUnsupported (family, .bin-only folders, dtype).
absl::StatusOr<Checkpoint> OpenCheckpoint(const Store& store, const std::string& dir,
                                          Accept accept);
// On the local file system, plain or quantized.
absl::StatusOr<Checkpoint> OpenCheckpoint(const std::string& dir);

// Compares the files as they are now with what `files` says (size, mtime unless 0, header digest):
// kSourceChanged naming the file and what differs, kInputMissing where one is gone. Reads headers
// only.
absl::Status CheckUnchanged(const Store& store, const std::string& dir,
                            std::span<const v1::SourceFile> files);
absl::Status CheckUnchanged(const std::string& dir, std::span<const v1::SourceFile> files);
// Size and mtime only: cheap enough for every unit of work.
absl::Status CheckUnchangedQuickly(const Store& store, const std::string& dir,
                                   std::span<const v1::SourceFile> files);

// Identity of a side file: size, mtime and the digest of the whole file.
absl::StatusOr<v1::SourceFile> IdentifySideFile(const Store& store, const std::string& dir,
                                                const std::string& name);

}  // namespace octavo
