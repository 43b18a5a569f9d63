#pragma once

// Unicode normalization: NFC and NFKC, in time that grows with the text alone.
//
// Properties of characters come from utf8proc (Unicode 15). Hugging Face `tokenizers` normalizes by
// older tables; characters that those do not know are left as they are, as it does: the list
// kNeverNormalized of unicode_additions.h.

#include <string>
#include <string_view>

namespace octavo {

enum class NormalForm {
  kNfc,   // canonical decomposition, canonical order, composition
  kNfkc,  // the same with compatibility decomposition
};

// REQUIRES: valid UTF-8. At most 11 times as long as `text` (U+FDFA under NFKC).
std::string Normalized(std::string_view text, NormalForm form);

}  // namespace octavo
