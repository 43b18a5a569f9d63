#pragma once

// The rooms of the examination, one after the other. Private to core/doctor.

#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/doctor/announcement.h"
#include "core/doctor/finding.h"
#include "core/doctor/folder.h"

namespace octavo {

// A tensor's name -> where it is. Where several files have it, the last one counts.
using TensorMap = absl::flat_hash_map<std::string, const v1::TensorSpec*>;

// config.json, index, shards, headers, tokenizer. True if tensors can be looked at.
bool CheckFiles(const Folder& folder, Findings* findings);

// Every tensor of the model is there, with its shape, and nothing else. `quantized`: config.json
// says so. REQUIRES folder.model.ok(); `model` has its spelling set.
void CheckModel(const Folder& folder, const v1::ModelSpec& model, const TensorMap& tensors,
                const Announcement& said, bool quantized, Findings* findings);

// "model.layers.7." of every layer that tensors are of and that config.json does not count.
std::set<std::string> LayersBeyond(const v1::ModelSpec& model, const TensorMap& tensors);

// Codes, scales and cache are what quantization_config says. REQUIRES as CheckModel.
void CheckQuantized(const Folder& folder, const v1::ModelSpec& model, const TensorMap& tensors,
                    const Announcement& said, Findings* findings);

// An output head of codes, in compressed-tensors: whether readers whose head is no linear layer
// find it. REQUIRES as CheckModel.
void CheckCodedHead(const v1::ModelSpec& model, const TensorMap& tensors, const Announcement& said,
                    Findings* findings);

}  // namespace octavo
