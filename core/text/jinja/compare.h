#pragma once

// Equality, order, hashing and membership, as Python has them: 1 == 1.0 == True, a list is never a
// tuple, strings order by code point, and what has no order is an error.

#include <compare>
#include <cstddef>

#include "absl/status/statusor.h"
#include "core/text/jinja/value.h"

namespace octavo::jinja {

absl::StatusOr<bool> Equal(const Value& left, const Value& right, Budget& budget);

// `left` < `right` and so on by one comparison; unordered for NaN. Errors: types without an order.
absl::StatusOr<std::partial_ordering> Order(const Value& left, const Value& right, Budget& budget);

// `item` in `container`: an element, a key, a part of a string. Errors: a container that is none.
absl::StatusOr<bool> Contains(const Value& container, const Value& item, Budget& budget);

// Errors: a list, a dict or what contains one.
absl::Status CheckHashable(const Value& key);

// The index of the entry with this key; entries.size() if there is none.
absl::StatusOr<size_t> FindKey(const Entries& entries, const Value& key, Budget& budget);
// The value under a key of text; null if there is none.
const Value* FindText(const Entries& entries, std::string_view key);

}  // namespace octavo::jinja
