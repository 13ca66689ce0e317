// Before anything is drawn: a reader who chose colours must not see the others flash by.
try {
  if (localStorage.theme) document.documentElement.dataset.theme = localStorage.theme;
} catch { /* a browser that keeps nothing shows its system's colours */ }
