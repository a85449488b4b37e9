// Rewrites of a graph at compile. Each is one file; each leaves a graph that passes check_graph and
// that computes the same function.
#pragma once

#include "graph/graph.h"
#include "graph/infer.h"

namespace sdcore {

// Marks these inputs, and what depends on them and on weights alone, as steady, and puts the nodes
// that make it before all others. Throws Error(invalid_argument) where there is no such input.
void steady_first(Graph& graph, const InputNames& steady);

// Drops nodes that no output needs.
void remove_dead(Graph& graph);

// Folds an upsample into the 3x3 convolution that alone reads it, for levels where that is the
// fastest way. Without types each is taken to double its image.
void fold_upsample(Graph& graph, const ValueTypes& types);

// Folds an activation into the node before it, where that node's kernel can apply one.
void fuse_activation(Graph& graph);

// Folds a geglu into the linear layer before it, where kernels have both halves of a product at
// once: of a multiple of so many outputs (gated_multiple).
void fuse_geglu(Graph& graph, int64_t multiple);

// Folds an addition into the matrix product before it: of a value of the same sizes (a residual) or
// of one vector an image (the time embedding).
void fuse_add(Graph& graph, const ValueTypes& types);

// Puts a copy before each input of a concat that its producer cannot write in place: an input of
// the graph, another concat, some of a value, a value that is part of a concat already, or a steady
// one where the concat is not.
void copy_into_concat(Graph& graph, ValueTypes& types);

}  // namespace sdcore
