// SPDX-License-Identifier: Apache-2.0
// Compiles a function for several x86 generations; the loader picks one. The baseline elsewhere. With SSF_X86_LEVEL
// defined (1, 3 or 4) there is one form alone, so that each can be tested on a processor for which another is picked.
#pragma once

#if !(defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__))
#define SSF_VECTORIZE
#elif !defined(SSF_X86_LEVEL)
#define SSF_VECTORIZE __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#elif SSF_X86_LEVEL == 4
#define SSF_VECTORIZE __attribute__((target("arch=x86-64-v4")))
#elif SSF_X86_LEVEL == 3
#define SSF_VECTORIZE __attribute__((target("arch=x86-64-v3")))
#else
#define SSF_VECTORIZE
#endif
