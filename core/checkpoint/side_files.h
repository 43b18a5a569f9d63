#pragma once

// The files of a checkpoint that hold no weights and are carried over: tokenizer, templates,
// generation config, code.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/store/store.h"

namespace octavo {

// True for a name that goes along into a quantized copy: *.json but config.json, weight indexes and
// what Octavo says about a folder (its manifest, its report), *.jinja, *.txt, *.py, *.model
// (SentencePiece, tiktoken), LICENSE and its kin. Not README.md: the copy carries a card of its
// own.
bool IsSideFile(std::string_view name);

// Names of the side files among a folder's entries, sorted. Only regular files count.
std::vector<std::string> SideFilesOf(std::span<const DirEntry> entries);

}  // namespace octavo
