#include "core/text/jinja/symbols.h"

#include "core/base/status.h"

namespace octavo::jinja {

void Symbols::Define(const std::string& name, Entry entry) {
  const auto [slot, added] = slots_->try_emplace(name, function_->slots);
  if (added) ++function_->slots;
  variables_.insert_or_assign(name, Variable{function_, slot->second});
  entries_.insert_or_assign(name, entry);
}

const Variable* Symbols::Find(const std::string& name) const {
  for (const Symbols* scope = this; scope != nullptr; scope = scope->parent_) {
    const auto found = scope->variables_.find(name);
    if (found != scope->variables_.end()) return &found->second;
  }
  return nullptr;
}

bool Symbols::IsFromContext(const std::string& name) const {
  for (const Symbols* scope = this; scope != nullptr; scope = scope->parent_) {
    const auto found = scope->entries_.find(name);
    if (found != scope->entries_.end()) return found->second.origin == Origin::kFromContext;
  }
  return true;
}

void Symbols::Load(const std::string& name) {
  if (Find(name) == nullptr) Define(name, {.origin = Origin::kFromContext});
}

void Symbols::Store(const std::string& name) {
  stores_.insert(name);
  if (variables_.contains(name)) return;
  const Variable* outer = parent_ == nullptr ? nullptr : parent_->Find(name);
  if (outer != nullptr) {
    Define(name, {.origin = Origin::kFromOuter, .outer = *outer});
  } else {
    Define(name, {.origin = Origin::kUnassigned});
  }
}

void Symbols::DeclareParameter(const std::string& name) {
  stores_.insert(name);
  Define(name, {.origin = Origin::kParameter});
}

void Symbols::MergeBranches(const std::vector<Symbols>& branches) {
  std::set<std::string> stored;
  for (const Symbols& branch : branches) {
    for (const std::string& name : branch.stores_) {
      if (!stores_.contains(name)) stored.insert(name);
    }
    for (const auto& [name, variable] : branch.variables_) {
      variables_.insert_or_assign(name, variable);
    }
    for (const auto& [name, entry] : branch.entries_) entries_.insert_or_assign(name, entry);
  }
  for (const Symbols& branch : branches) {
    stores_.insert(branch.stores_.begin(), branch.stores_.end());
  }
  // Perhaps not assigned: until then it is what it was outside.
  for (const std::string& name : stored) {
    const Variable* outer = parent_ == nullptr ? nullptr : parent_->Find(name);
    const Entry entry = outer == nullptr ? Entry{.origin = Origin::kFromContext}
                                         : Entry{.origin = Origin::kFromOuter, .outer = *outer};
    entries_.insert_or_assign(name, entry);
  }
}

Place Symbols::PlaceOf(const std::string& name) const {
  const Variable* variable = Find(name);
  OCTAVO_CHECK(variable != nullptr);
  return {.hops = function_->depth - variable->function->depth, .slot = variable->slot};
}

ScopeStart Symbols::Start() const {
  ScopeStart start;
  for (const auto& [name, entry] : entries_) {
    SlotStart slot{.slot = slots_->at(name), .kind = SlotStart::Kind::kUnassigned};
    switch (entry.origin) {
      case Origin::kParameter:
        continue;
      case Origin::kUnassigned:
        break;
      case Origin::kFromContext:
        slot.kind = SlotStart::Kind::kFromContext;
        slot.name = name;
        break;
      case Origin::kFromOuter:
        slot.kind = SlotStart::Kind::kFromOuter;
        slot.outer = {.hops = function_->depth - entry.outer.function->depth,
                      .slot = entry.outer.slot};
        break;
    }
    start.push_back(std::move(slot));
  }
  return start;
}

}  // namespace octavo::jinja
